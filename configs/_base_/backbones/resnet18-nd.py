"""ResNet-18 of any rank, with timm's names.

Weights: ImageNet-1k (Apache-2.0, timm's); inflated for volumes.
https://arxiv.org/abs/1512.03385
"""

_base_ = 'statistics.py'
backbone = dict(
    type='upernet_ext.ResNet',
    arch='resnet18',
    pretrained='https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/'
    'model.safetensors',
)
neck = None
normalization = _base_.imagenet
