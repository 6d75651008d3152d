"""ResNet-50 with three 3x3 convolutions in its stem (V1c).

Weights: ImageNet-1k (Apache-2.0, OpenMMLab's).
https://arxiv.org/abs/1812.01187
"""

_base_ = 'statistics.py'
backbone = dict(
    type='mmseg.ResNetV1c',
    depth=50,
    norm_cfg=dict(type='SyncBN', requires_grad=True),
    pretrained='https://mmassets.onedl.ai/pretrain/third_party/'
    'resnet50_v1c-2cccc1ad.pth',
)
neck = None
normalization = _base_.imagenet
