"""DINOv3 ViT-7B/16 with a multi-level neck.

Weights: LVD-1689M, self-supervised. They are gated: accept the DINOv3 licence
(Meta's own, not an open-source one) at
https://huggingface.co/facebook/dinov3-vit7b16-pretrain-lvd1689m
and fetch them, NAME being the last part of the address:
hf download facebook/NAME --local-dir weights/NAME
"""

_base_ = 'dinov3-b16_mln.py'
backbone = dict(
    arch='dinov3-7b',
    pretrained='weights/dinov3-vit7b16-pretrain-lvd1689m',
)
# A neck of the backbone's 4096 channels would take 600M parameters.
neck = dict(out_channels=1024)
