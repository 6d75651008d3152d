"""DeepLabV3+, ConvNeXt-T, ADE20K 512 x 512, 160k iterations.

Run:    tools/dist_train.sh configs/deeplabv3plus_convnext-t_ade20k.py 8
        (2 images a GPU)
Expect: no published number; not yet run here. The recipe is UPerNet's.
"""

_base_ = [
    '_base_/backbones/convnext-t.py',
    '_base_/heads/deeplabv3plus.py',
    '_base_/datasets/ade20k.py',
    '_base_/schedules/adamw_160k.py',
    '_base_/runtime.py',
]
model = dict(
    type='upernet_ext.EncoderDecoder',
    data_preprocessor=dict(
        type='upernet_ext.SegDataPreProcessor',
        **_base_.normalization,
        size=_base_.crop_size,
    ),
    # The maps at strides 4, 16 and 32: no head takes the one at 8.
    backbone=dict(_base_.backbone, drop_path_rate=0.4, out_indices=[0, 2, 3]),
    neck=_base_.neck,
    decode_head=dict(
        _base_.decode_head,
        # For stride 32.
        dilations=(1, 3, 6, 9),
    ),
    auxiliary_head=dict(_base_.auxiliary_head, in_index=1),
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    test_cfg=dict(
        mode='slide',
        crop_size=_base_.crop_size,
        stride=[size * 2 // 3 for size in _base_.crop_size],
    ),
)
optim_wrapper = dict(
    type='upernet_ext.AmpOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(layer_decay_rate=0.9),
)
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
