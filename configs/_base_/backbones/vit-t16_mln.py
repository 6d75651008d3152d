"""ViT-Ti/16 with a multi-level neck.

Weights: AugReg, ImageNet-21k then ImageNet-1k at 384 (Apache-2.0).
https://huggingface.co/timm/vit_tiny_patch16_384.augreg_in21k_ft_in1k
"""

_base_ = 'vit-b16_mln.py'
backbone = dict(
    arch='t',
    pretrained='https://huggingface.co/timm/'
    'vit_tiny_patch16_384.augreg_in21k_ft_in1k/resolve/main/model.safetensors',
)
neck = dict(out_channels=192)
