"""DeepLabV3+, ResNet-50 at stride 8, Cityscapes, 512 x 1024, 80k iterations.

Run:    tools/dist_train.sh configs/deeplabv3plus_resnet50_cityscapes-512x1024.py 4
        (2 images a GPU)
Expect: 80.09 mIoU, published (mmseg model zoo); not yet run here.
"""  # noqa: E501  (the command in one line)

_base_ = [
    '_base_/backbones/resnet50.py',
    '_base_/heads/deeplabv3plus.py',
    '_base_/datasets/cityscapes.py',
    '_base_/schedules/sgd_80k.py',
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
        _base_.backbone,
        # Dilation in place of the last two strides.
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        contract_dilation=True,
    ),
    neck=_base_.neck,
    decode_head=_base_.decode_head,
    auxiliary_head=_base_.auxiliary_head,
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    test_cfg=dict(mode='whole'),
)
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
