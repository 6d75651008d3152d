"""UPerNet, MobileNetV2, nuclei 256 x 256, 400 iterations.

Run:    python tools/train.py configs/upernet_mobilenetv2_nuclei.py
        (8 images, one device)
Expect: 88.0 mIoU on val, run here (seed 0, --amp); no published number.
"""

_base_ = [
    '_base_/backbones/mobilenetv2.py',
    '_base_/heads/uper.py',
    '_base_/datasets/nuclei.py',
    '_base_/schedules/adamw_400.py',
    '_base_/runtime.py',
]
model = dict(
    type='upernet_ext.EncoderDecoder',
    data_preprocessor=dict(
        type='upernet_ext.SegDataPreProcessor',
        **_base_.normalization,
        size=_base_.crop_size,
    ),
    backbone=_base_.backbone,
    neck=_base_.neck,
    decode_head=dict(_base_.decode_head, channels=64),
    auxiliary_head=dict(_base_.auxiliary_head, channels=32),
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    channels_last=True,
    test_cfg=dict(mode='whole'),
)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
