"""ViT-B/16 with a multi-level neck.

Weights: AugReg, ImageNet-21k then ImageNet-1k at 384 (Apache-2.0).
https://huggingface.co/timm/vit_base_patch16_384.augreg_in21k_ft_in1k
"""

_base_ = 'statistics.py'
backbone = dict(
    type='upernet_ext.VisionTransformer',
    arch='b',
    patch_size=16,
    pretrained='https://huggingface.co/timm/'
    'vit_base_patch16_384.augreg_in21k_ft_in1k/resolve/main/model.safetensors',
)
neck = dict(
    type='upernet_ext.MultiLevelNeck',
    out_channels=768,
    scales=(4, 2, 1, 0.5),
)
normalization = _base_.centred
