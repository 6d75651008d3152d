"""ConvNeXt-T of the transformers library.

Weights: ImageNet-1k at 224 (Apache-2.0).
https://huggingface.co/facebook/convnext-tiny-224
"""

_base_ = 'statistics.py'
backbone = dict(
    type='upernet_ext.TransformersBackbone',
    model_type='convnext',
    config=dict(depths=[3, 3, 9, 3], hidden_sizes=[96, 192, 384, 768]),
    pretrained='https://huggingface.co/facebook/convnext-tiny-224/'
    'resolve/main/pytorch_model.bin',
)
neck = None
normalization = _base_.imagenet
