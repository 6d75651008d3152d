"""UPerNet, a ResNet-18 of half width from random weights, a folder of volumes.

The head decides at every second voxel (levels at strides 2 to 16): for small
structures, such as the hippocampus.

Run:    python tools/train.py configs/upernet_resnet18_volumes.py \
            --cfg-options data_root=data/mine
        (2 patches, one device; configuration=2d for slices)
Expect: your data; not yet run here.
"""

_base_ = [
    '_base_/backbones/resnet18-nd.py',
    '_base_/heads/uper_volumes.py',
    '_base_/datasets/volume_folder.py',
    '_base_/schedules/adamw_4k.py',
    '_base_/runtime.py',
]
# Batch norm: group norm learnt more slowly here, with groups this narrow.
norm_cfg = dict(type='BN')
model = dict(
    type='upernet_ext.EncoderDecoder',
    data_preprocessor=dict(
        type='upernet_ext.SegDataPreProcessor', size=_base_.crop_size
    ),
    backbone=dict(
        _base_.backbone,
        halvings=_base_.halvings,
        # With the stem of three convolutions: its map at stride 2 is used.
        arch='resnet18vd',
        pretrained=None,
        base_channels=32,
        out_indices=[0, 1, 2, 3],
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(_base_.decode_head, channels=48, norm_cfg=norm_cfg),
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    multi_label=_base_.multi_label,
    channels_last=True,
    test_cfg=_base_.test_windows,
)
batch_size = 2
optim_wrapper = dict(
    optimizer=dict(lr=3e-3), clip_grad=dict(max_norm=12, norm_type=2)
)
tta = _base_.mirrored
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
