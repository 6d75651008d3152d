"""DINOv2 ViT-L/14 with a multi-level neck.

Weights: LVD-142M, self-supervised (Apache-2.0).
https://github.com/facebookresearch/dinov2
"""

_base_ = 'dinov2-b14_mln.py'
backbone = dict(
    arch='dinov2-l',
    pretrained='https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/'
    'dinov2_vitl14_pretrain.pth',
)
neck = dict(out_channels=1024)
