"""UPerNet, DINOv2 ViT-B/14 with LoRA, CamVid 256 x 384 crops, 4k iterations.

Run:    python tools/train.py configs/upernet_dinov2-b-lora_camvid.py
        (8 images, one device)
Expect: no published number for this head; the learning rate is untuned, not
        yet run here. A checkpoint holds adapters, neck and heads alone.
"""

_base_ = [
    '_base_/backbones/dinov2-b14_mln.py',
    '_base_/heads/uper.py',
    '_base_/datasets/camvid.py',
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
    neck=dict(_base_.neck, out_channels=256),
    decode_head=dict(_base_.decode_head, channels=256),
    auxiliary_head=dict(_base_.auxiliary_head, channels=128),
    tuning=dict(
        type='lora', targets=['qkv'], rank=8, alpha=16.0, dropout=0.05
    ),
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    test_cfg=dict(mode='whole'),
)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
custom_hooks = [dict(type='upernet_ext.SaveTrainable')]
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
