"""Swin-T, window 7.

Weights: ImageNet-1k at 224 (MIT, converted by mmsegmentation).
https://github.com/microsoft/Swin-Transformer
"""

_base_ = 'statistics.py'
backbone = dict(
    type='mmseg.SwinTransformer',
    pretrain_img_size=224,
    embed_dims=96,
    depths=[2, 2, 6, 2],
    num_heads=[3, 6, 12, 24],
    window_size=7,
    pretrained='https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/swin/'
    'swin_tiny_patch4_window7_224_20220317-1cdeb081.pth',
)
neck = None
normalization = _base_.imagenet
