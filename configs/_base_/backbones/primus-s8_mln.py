"""Primus-S/8, a plain ViT for volumes, with a multi-level neck.

There are no published weights: it is trained from random ones.
https://arxiv.org/abs/2503.01835
"""

_base_ = 'statistics.py'
backbone = dict(type='upernet_ext.VisionTransformer', arch='primus-s')
neck = dict(
    type='upernet_ext.MultiLevelNeck',
    out_channels=396,
    scales=(4, 2, 1, 0.5),
)
normalization = _base_.imagenet
