"""UPerNet, a ResNet-18 of half width from random weights, a folder of volumes.

The head decides at every second voxel (levels at strides 2 to 16): for small
structures, such as the hippocampus.

Run:    python tools/train.py configs/upernet_resnet18_volumes.py \
            --cfg-options data_root=data/mine
        (2 patches, one device; configuration=2d for slices)
Expect: your data; not yet run here.
"""

_base_ = [
    '_base_/datasets/volume_folder.py',
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
tta = _base_.mirrored
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
