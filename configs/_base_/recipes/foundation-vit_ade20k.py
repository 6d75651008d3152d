"""All of a foundation ViT on ADE20K but the backbone and its statistics.

Learning rate, layer decay and drop path are untuned.
"""

_base_ = [
    '../heads/uper.py',
    '../datasets/ade20k.py',
    '../schedules/adamw_80k.py',
    '../runtime.py',
]
model = dict(
    type='upernet_ext.EncoderDecoder',
    data_preprocessor=dict(
        type='upernet_ext.SegDataPreProcessor', size=_base_.crop_size
    ),
    backbone=dict(drop_path_rate=0.1),
    decode_head=_base_.decode_head,
    auxiliary_head=_base_.auxiliary_head,
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
    paramwise_cfg=dict(layer_decay_rate=0.8),
)
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
