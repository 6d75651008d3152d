"""Swin-B, window 12.

Weights: ImageNet-22k at 384 (MIT, converted by mmsegmentation).
https://github.com/microsoft/Swin-Transformer
"""

_base_ = 'swin-t.py'
backbone = dict(
    pretrain_img_size=384,
    embed_dims=128,
    depths=[2, 2, 18, 2],
    num_heads=[4, 8, 16, 32],
    window_size=12,
    pretrained='https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/swin/'
    'swin_base_patch4_window12_384_22k_20220317-e5c09f74.pth',
)
