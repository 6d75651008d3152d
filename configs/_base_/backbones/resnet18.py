"""ResNet-18 with three 3x3 convolutions in its stem (V1c).

Weights: ImageNet-1k (Apache-2.0, OpenMMLab's).
https://arxiv.org/abs/1812.01187
"""

_base_ = 'resnet50.py'
backbone = dict(
    depth=18,
    pretrained='https://mmassets.onedl.ai/pretrain/third_party/'
    'resnet18_v1c-b5776b93.pth',
)
