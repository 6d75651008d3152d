"""UPerNet, RETFound ViT-L/16, DRIVE vessels, 4k iterations.

Run:    python tools/train.py configs/upernet_retfound-l_drive.py
        (2 images, one device)
Expect: no published mIoU of this model here; not yet run here on DRIVE or
        with its weights.
"""

_base_ = [
    '_base_/backbones/retfound-l16_mln.py',
    '_base_/heads/uper.py',
    '_base_/datasets/drive.py',
    '_base_/schedules/adamw_4k.py',
    '_base_/runtime.py',
]
model = dict(
    type='upernet_ext.EncoderDecoder',
    data_preprocessor=dict(
        type='upernet_ext.SegDataPreProcessor',
        **_base_.normalization,
        size=_base_.crop_size,
    ),
    backbone=dict(
        _base_.backbone, img_size=_base_.crop_size, drop_path_rate=0.2
    ),
    neck=_base_.neck,
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
    paramwise_cfg=dict(layer_decay_rate=0.75),
)
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
