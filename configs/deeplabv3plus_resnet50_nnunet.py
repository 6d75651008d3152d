"""DeepLabV3+, ResNet-50 from ImageNet's 2D weights, nnU-Net's recipe, 250k.

The weights are inflated; slices take them as they are. Levels at strides 4 to
32.

Run:    python tools/train.py configs/deeplabv3plus_resnet50_nnunet.py \
            --nnunet 4 3d_fullres 0
        (the plan's batch, one device)
Expect: your data; not yet run here.
"""

_base_ = [
    '_base_/backbones/resnet50-nd.py',
    '_base_/heads/deeplabv3plus_volumes.py',
    '_base_/datasets/nnunet.py',
    '_base_/schedules/nesterov_250k.py',
    '_base_/runtime.py',
]
model = dict(
    type='upernet_ext.EncoderDecoder',
    data_preprocessor=dict(
        type='upernet_ext.SegDataPreProcessor', size=_base_.crop_size
    ),
    backbone=dict(_base_.backbone, halvings=_base_.halvings),
    decode_head=_base_.decode_head,
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    multi_label=_base_.multi_label,
    channels_last=True,
    test_cfg=_base_.test_windows,
)
tta = _base_.mirrored
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
