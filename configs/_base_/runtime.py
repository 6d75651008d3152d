"""Environment, logging, checkpoints and pictures of every experiment."""

default_scope = 'mmseg'
runner_type = 'upernet_ext.Runner'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # The last checkpoint, to resume from; the experiment adds the best one.
    checkpoint=dict(
        type='CheckpointHook', by_epoch=False, interval=2000, max_keep_ckpts=1
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='upernet_ext.SavePictures'),
)
custom_hooks = []
log_processor = dict(type='upernet_ext.LogProcessor', by_epoch=False)
log_level = 'INFO'
vis_backends = [
    dict(type='LocalVisBackend'),
    dict(type='TensorboardVisBackend'),
]
visualizer = dict(type='Visualizer', vis_backends=vis_backends)
load_from = None
resume = False
randomness = dict(seed=None, deterministic=False)
# Of tools/test.py --tta: six scales, mirrored left to right, as in mmseg.
tta = dict(scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip_axes=(-1,))
