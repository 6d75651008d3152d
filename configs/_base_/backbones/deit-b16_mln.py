"""DeiT-B/16 with a multi-level neck.

Weights: ImageNet-1k at 224, without distillation (Apache-2.0).
https://github.com/facebookresearch/deit
"""

_base_ = 'vit-b16_mln.py'
backbone = dict(
    pretrained='https://dl.fbaipublicfiles.com/deit/'
    'deit_base_patch16_224-b5f2ef4d.pth',
)
normalization = _base_.imagenet
