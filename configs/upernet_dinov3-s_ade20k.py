"""UPerNet, DINOv3 ViT-S/16, ADE20K 512 x 512, 80k iterations.

Run:    tools/dist_train.sh configs/upernet_dinov3-s_ade20k.py 8
        (2 images a GPU)
Expect: no published number for this head; learning rate, layer decay and
        drop path are untuned, not yet run here.
"""

_base_ = [
    '_base_/backbones/dinov3-s16_mln.py',
    '_base_/recipes/foundation-vit_ade20k.py',
]
model = dict(
    data_preprocessor=_base_.normalization,
    backbone=_base_.backbone,
    neck=_base_.neck,
)
