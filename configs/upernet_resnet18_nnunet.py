"""UPerNet, a ResNet-18 of half width from random weights, any nnU-Net dataset.

The head decides at every second voxel (levels at strides 2 to 16): for small
structures, such as the hippocampus.

Run:    python tools/train.py configs/upernet_resnet18_nnunet.py \
            --nnunet 4 3d_fullres 0
        (2 patches, one device; for slices 2d, and --cfg-options batch_size=32)
Expect: 0.882 Dice, 0.864 in 2d, on Hippocampus (Dataset004), fold 0, run
        here (seed 0, --amp); no published number for this model.
"""

_base_ = [
    '_base_/datasets/nnunet.py',
    '_base_/recipes/resnet18-half_volumes.py',
]
model = dict(
    data_preprocessor=dict(size=_base_.crop_size),
    backbone=dict(halvings=_base_.halvings),
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    multi_label=_base_.multi_label,
    test_cfg=_base_.test_windows,
)
batch_size = 2
# In a schedule this short it learns where things are sooner than that it does
# not matter; and the two ends of a hippocampus are two classes.
train_dataloader = dict(dataset=dict(pipeline=_base_.unmirrored_pipeline))
tta = dict(_base_.mirrored, flip_axes=())
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
