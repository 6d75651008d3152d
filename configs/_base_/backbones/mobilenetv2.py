"""MobileNetV2, stride 32, without its last 1x1 convolution.

Weights: ImageNet-1k (BSD-3-Clause, torchvision's).
https://arxiv.org/abs/1801.04381
"""

_base_ = 'statistics.py'
backbone = dict(
    type='mmseg.MobileNetV2',
    out_indices=(1, 2, 4, 6),
    norm_cfg=dict(type='SyncBN', requires_grad=True),
    pretrained=dict(
        checkpoint='https://download.pytorch.org/models/'
        'mobilenet_v2-b0353104.pth',
        key_map='torchvision.mobilenet_v2',
    ),
)
neck = None
normalization = _base_.imagenet
