"""DINOv2 ViT-B/14 with a multi-level neck.

Weights: LVD-142M, self-supervised (Apache-2.0).
https://github.com/facebookresearch/dinov2
"""

_base_ = 'statistics.py'
backbone = dict(
    type='upernet_ext.VisionTransformer',
    arch='dinov2-b',
    pretrained='https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/'
    'dinov2_vitb14_pretrain.pth',
)
neck = dict(
    type='upernet_ext.MultiLevelNeck',
    out_channels=768,
    scales=(4, 2, 1, 0.5),
)
normalization = _base_.imagenet
