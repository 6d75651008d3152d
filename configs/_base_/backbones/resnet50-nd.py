"""ResNet-50 of any rank, with timm's names.

Weights: ImageNet-1k (Apache-2.0, timm's); inflated for volumes.
https://arxiv.org/abs/1512.03385
"""

_base_ = 'resnet18-nd.py'
backbone = dict(
    arch='resnet50',
    pretrained='https://huggingface.co/timm/resnet50.a1_in1k/resolve/main/'
    'model.safetensors',
)
