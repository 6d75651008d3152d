"""All of a ResNet-18 of half width on volumes but the dataset.

The head decides at every second voxel (levels at strides 2 to 16).
"""

_base_ = [
    '../backbones/resnet18-nd.py',
    '../heads/uper_volumes.py',
    '../schedules/adamw_4k.py',
    '../runtime.py',
]
# Batch norm: group norm learnt more slowly here, with groups this narrow.
norm_cfg = dict(type='BN')
model = dict(
    type='upernet_ext.EncoderDecoder',
    data_preprocessor=dict(type='upernet_ext.SegDataPreProcessor'),
    backbone=dict(
        _base_.backbone,
        # With the stem of three convolutions: its map at stride 2 is used.
        arch='resnet18vd',
        pretrained=None,
        base_channels=32,
        out_indices=[0, 1, 2, 3],
        norm_cfg=norm_cfg,
    ),
    decode_head=dict(_base_.decode_head, channels=48, norm_cfg=norm_cfg),
    channels_last=True,
)
optim_wrapper = dict(
    optimizer=dict(lr=3e-3), clip_grad=dict(max_norm=12, norm_type=2)
)
