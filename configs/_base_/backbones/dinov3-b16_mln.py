"""DINOv3 ViT-B/16 with a multi-level neck.

Weights: LVD-1689M, self-supervised. They are gated: accept the DINOv3 licence
(Meta's own, not an open-source one) at
https://huggingface.co/facebook/dinov3-vitb16-pretrain-lvd1689m
and fetch them, NAME being the last part of the address:
hf download facebook/NAME --local-dir weights/NAME
"""

_base_ = 'statistics.py'
backbone = dict(
    type='upernet_ext.VisionTransformer',
    arch='dinov3-b',
    pretrained='weights/dinov3-vitb16-pretrain-lvd1689m',
)
neck = dict(
    type='upernet_ext.MultiLevelNeck',
    out_channels=768,
    scales=(4, 2, 1, 0.5),
)
normalization = _base_.imagenet
