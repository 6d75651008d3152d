"""DINOv2 ViT-S/14 with a multi-level neck.

Weights: LVD-142M, self-supervised (Apache-2.0).
https://github.com/facebookresearch/dinov2
"""

_base_ = 'dinov2-b14_mln.py'
backbone = dict(
    arch='dinov2-s',
    pretrained='https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/'
    'dinov2_vits14_pretrain.pth',
)
neck = dict(out_channels=384)
