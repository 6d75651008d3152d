"""UPerNet, ResNet-50, your own folder of images and masks.

Run:    python tools/train.py configs/upernet_resnet50_folder.py
        --cfg-options data_root=data/mine classes="[background,cat]"
        or a file of three lines: _base_ = this file, data_root, classes
Expect: what your data gives; the template is not run here.
"""

_base_ = [
    '_base_/backbones/resnet50.py',
    '_base_/heads/uper.py',
    '_base_/datasets/folder.py',
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
    backbone=_base_.backbone,
    neck=_base_.neck,
    decode_head=_base_.decode_head,
    auxiliary_head=_base_.auxiliary_head,
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    test_cfg=dict(mode='whole'),
)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
