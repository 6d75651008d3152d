"""ConvNeXt-T, a norm behind each level.

Weights: ImageNet-1k at 224 (Apache-2.0 on this page).
https://huggingface.co/timm/convnext_tiny.fb_in1k
"""

_base_ = 'statistics.py'
backbone = dict(
    type='upernet_ext.ConvNeXt',
    arch='convnext_tiny',
    output_norm=True,
    pretrained='https://huggingface.co/timm/convnext_tiny.fb_in1k/'
    'resolve/main/model.safetensors',
)
neck = None
normalization = _base_.imagenet
