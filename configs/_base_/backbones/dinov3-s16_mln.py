"""DINOv3 ViT-S/16 with a multi-level neck.

Weights: LVD-1689M, self-supervised. They are gated: accept the DINOv3 licence
(Meta's own, not an open-source one) at
https://huggingface.co/facebook/dinov3-vits16-pretrain-lvd1689m
and fetch them, NAME being the last part of the address:
hf download facebook/NAME --local-dir weights/NAME
"""

_base_ = 'dinov3-b16_mln.py'
backbone = dict(
    arch='dinov3-s',
    pretrained='weights/dinov3-vits16-pretrain-lvd1689m',
)
neck = dict(out_channels=384)
