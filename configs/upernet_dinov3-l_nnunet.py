"""UPerNet, DINOv3 ViT-L/16 with LoRA, any nnU-Net dataset, 250k iterations.

Slices (2d) or volumes (3d_fullres, slice by slice in the backbone, which a
z-convolution a level joins): four normed maps of the ViT at stride 16, no
neck, and a progressive upsampler before the classifier. The native form of
what tools/from_yaml.py makes of a YAML file.

Run:    python tools/train.py configs/upernet_dinov3-l_nnunet.py \
            --nnunet 4 2d 0
        (the plan's batch, one device)
Expect: your data; not yet run here with these weights, which are gated.
        A checkpoint holds adapters and head alone.
"""

_base_ = [
    '_base_/backbones/dinov3-l16_mln.py',
    '_base_/heads/uper_volumes.py',
    '_base_/datasets/nnunet.py',
    '_base_/schedules/adamw_250k.py',
    '_base_/runtime.py',
]
model = dict(
    type='upernet_ext.EncoderDecoder',
    data_preprocessor=dict(
        type='upernet_ext.SegDataPreProcessor', size=_base_.crop_size
    ),
    backbone=dict(
        _base_.backbone,
        halvings=_base_.halvings,
        final_norm=True,
        gradient_checkpointing=True,
    ),
    decode_head=dict(
        _base_.decode_head,
        channels=512,
        # The upsampler has its own dropout, and classifies at full size.
        dropout_ratio=0.0,
        deep_supervision=False,
        upsampler=dict(),
    ),
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    multi_label=_base_.multi_label,
    tuning=dict(
        type='lora', targets=['qkv'], rank=8, alpha=16.0, dropout=0.05
    ),
    test_cfg=_base_.test_windows,
)
optim_wrapper = dict(
    type='upernet_ext.AmpOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(lr=1e-3, weight_decay=3e-5),
    clip_grad=dict(max_norm=12, norm_type=2),
)
tta = _base_.mirrored
custom_hooks = [dict(type='upernet_ext.SaveTrainable')]
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
