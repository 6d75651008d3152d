"""UPerNet, Primus-S/8 with attention over the volume, any nnU-Net dataset.

From random weights, in full 3D attention. Patches of 8 voxels, which the neck
turns into levels at strides 2 to 16. The authors' optimiser (their
nnunetv2/training/nnUNetTrainer/primus/primus_trainers.py) but for a learning
rate and gradients that fit a short schedule: theirs are 3e-4 and at most 1.

Run:    python tools/train.py configs/upernet_primus-s_nnunet.py \
            --nnunet 4 3d_fullres 0
        (2 patches, one device)
Expect: 0.835 Dice on Hippocampus (Dataset004), fold 0, run here for 800
        iterations (seed 0, --amp); no published number for this model.
"""

_base_ = [
    '_base_/backbones/primus-s8_mln.py',
    '_base_/heads/uper_volumes.py',
    '_base_/datasets/nnunet.py',
    '_base_/schedules/adamw_4k.py',
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
        img_size=_base_.crop_size,
        drop_path_rate=0.2,
    ),
    neck=dict(_base_.neck, out_channels=48),
    # Batch norm, as for upernet_vit-t_nnunet.
    decode_head=dict(
        _base_.decode_head, channels=48, norm_cfg=dict(type='BN')
    ),
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    multi_label=_base_.multi_label,
    test_cfg=_base_.test_windows,
)
batch_size = 2
optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=5e-2),
    clip_grad=dict(max_norm=12, norm_type=2),
)
# A short schedule: see upernet_resnet18_nnunet.
train_dataloader = dict(dataset=dict(pipeline=_base_.unmirrored_pipeline))
tta = dict(_base_.mirrored, flip_axes=())
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
