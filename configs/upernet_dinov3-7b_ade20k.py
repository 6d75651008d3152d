"""UPerNet, frozen DINOv3 ViT-7B/16, ADE20K 512 x 512, 80k iterations.

Run:    tools/dist_train.sh configs/upernet_dinov3-7b_ade20k.py 8
        (2 images a GPU; FSDP shards the 6.7 billion frozen parameters)
Expect: no published number for this head; published neighbour: frozen with a
        linear head 55.9 mIoU (DINOv3 paper). Not yet run here.
"""

_base_ = [
    '_base_/backbones/dinov3-7b16_mln.py',
    '_base_/heads/uper.py',
    '_base_/datasets/ade20k.py',
    '_base_/schedules/adamw_80k.py',
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
    tuning=dict(type='freeze', what='all'),
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    test_cfg=dict(
        mode='slide',
        crop_size=_base_.crop_size,
        stride=[size * 2 // 3 for size in _base_.crop_size],
    ),
)
optim_wrapper = dict(
    type='upernet_ext.AmpOptimWrapper',
    dtype='bfloat16',
    optimizer=dict(lr=1e-4, weight_decay=0.05),
)
runner_type = 'FlexibleRunner'
strategy = dict(
    type='FSDPStrategy',
    state_dict_cfg='full',
    model_wrapper=dict(
        type='MMFullyShardedDataParallel',
        use_orig_params=True,
        auto_wrap_policy=dict(
            type='torch.distributed.fsdp.wrap.size_based_auto_wrap_policy',
            min_num_params=100_000_000,
        ),
    ),
)
default_hooks = dict(
    checkpoint=dict(save_best=_base_.best_metric, rule=_base_.best_rule)
)
