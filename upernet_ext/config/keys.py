"""The keys of a config: who reads them, and which are retired."""

import difflib
import inspect
from collections.abc import Sequence

from mmengine.runner import Runner

# What the Runner and the tools read. Every other top-level key is a variable:
# it acts only through what the files compute from it.
RUNNER_KEYS = {
    *inspect.signature(Runner).parameters,
    *('activation_checkpointing', 'compile', 'custom_imports', 'device'),
    *('efficient_conv_bn_eval', 'find_unused_parameters', 'model_wrapper_cfg'),
    *('runner_type', 'strategy', 'sync_bn', 'tta'),
}

# Keys that an experiment joins into its model: where they end up.
AXIS_KEYS = {
    'backbone': 'model.backbone',
    'neck': 'model.neck',
    'decode_head': 'model.decode_head',
    'auxiliary_head': 'model.auxiliary_head',
    'normalization': 'model.data_preprocessor',
    'num_classes': 'model.num_classes',
    'in_channels': 'model.in_channels',
    'spatial_dims': 'model.spatial_dims',
}

# Keys of mmsegmentation 0.x (and mmseg 1.x's test-time augmentation), which
# nothing reads any more, and what took their place.
RETIRED_KEYS = {
    'checkpoint_config': 'default_hooks.checkpoint',
    'cudnn_benchmark': 'env_cfg.cudnn_benchmark',
    'data': 'train_dataloader, val_dataloader and test_dataloader',
    'dist_params': 'env_cfg.dist_cfg',
    'evaluation': 'val_evaluator and train_cfg.val_interval',
    'fp16': "optim_wrapper.type='upernet_ext.AmpOptimWrapper' (or --amp)",
    'gpu_ids': '--launcher, with one process a GPU',
    'log_config': 'default_hooks.logger and visualizer.vis_backends',
    'lr_config': 'param_scheduler',
    'momentum_config': 'param_scheduler',
    'mp_start_method': 'env_cfg.mp_cfg.mp_start_method',
    'opencv_num_threads': 'env_cfg.mp_cfg.opencv_num_threads',
    'optimizer': 'optim_wrapper.optimizer',
    'optimizer_config': 'optim_wrapper (clip_grad, accumulative_counts)',
    'resume_from': 'load_from with resume=True (or --resume PATH)',
    'runner': 'train_cfg',
    'seed': 'randomness.seed (or --seed)',
    'total_epochs': 'train_cfg.max_epochs',
    'total_iters': 'max_iters',
    'tta_model': 'tta',
    'tta_pipeline': 'tta',
    'workflow': 'train_cfg and val_cfg',
}


class ConfigError(ValueError):
    """A config that cannot mean what it says."""


def did_you_mean(name: str, known: Sequence[str], cutoff: float) -> str:
    """Write a hint at the closest known name, or nothing."""
    close = difflib.get_close_matches(name, known, 1, cutoff)
    return f'; did you mean {close[0]!r}?' if close else ''


def check_retired(key: str, where: str) -> None:
    """Refuse a key that nothing reads any more."""
    if key in RETIRED_KEYS:
        raise ConfigError(
            f'{where}: the key {key!r} is retired, nothing reads it; use '
            f'{RETIRED_KEYS[key]}'
        )
