"""The YAML of trainers that put a ViT and UPerNet into nnU-Net, as a config.

Keys: ``model.{model_path, backbone, backbone_size, checkpoint_path,
decoder.{hidden_size, pool_scales}}``, ``lora.{enabled, r, lora_alpha,
target_modules, lora_dropout}``, ``train.{initial_lr, weight_decay,
gradient_clip, num_epochs, num_iterations_per_epoch,
num_val_iterations_per_epoch}``. All are optional; an unknown one is refused.
"""

import os
import pprint
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ..config import ConfigError, config_folder
from ..config.keys import did_you_mean
from .vit_upernet import preset

BASE = 'upernet_dinov3-l_nnunet.py'
# Where a key's value goes in the config, as it is.
_PLACES = {
    'model.checkpoint_path': 'model.backbone.pretrained',
    'model.decoder.hidden_size': 'model.decode_head.channels',
    'model.decoder.pool_scales': 'model.decode_head.pool_scales',
    'train.initial_lr': 'optim_wrapper.optimizer.lr',
    'train.weight_decay': 'optim_wrapper.optimizer.weight_decay',
    'train.gradient_clip': 'optim_wrapper.clip_grad.max_norm',
    # Validation is of whole cases here: at most so many.
    'train.num_val_iterations_per_epoch': 'val_dataloader.dataset.indices',
}
_LORA = dict(
    r='rank',
    lora_alpha='alpha',
    target_modules='targets',
    lora_dropout='dropout',
)
_LORA_DEFAULTS = dict(rank=8, alpha=16.0, targets=['qkv'], dropout=0.05)
# What the lengths of a run are where the file is silent.
_LENGTHS = dict(num_epochs=1000, num_iterations_per_epoch=250)
_READ_ELSEWHERE = (
    *('model.model_path', 'model.backbone', 'model.backbone_size'),
    *('lora.enabled', *(f'lora.{key}' for key in _LORA)),
    *(f'train.{key}' for key in _LENGTHS),
)


def read_yaml(path: str | os.PathLike) -> dict[str, Any]:
    """Read such a file as overrides of the config ``BASE``.

    Args:
        path: The file.

    Returns:
        ``{'model.decode_head.channels': 512, ...}``, for ``load_config``.

    Raises:
        ConfigError: The file is no mapping, or has a key that nothing reads.
        FileNotFoundError: There is no such file.
    """
    content = yaml.safe_load(Path(path).read_text())
    if not isinstance(content, Mapping):
        raise ConfigError(
            f'{path}: expected the sections model, lora and train, got '
            f'{type(content).__name__}'
        )
    values = dict(_leaves(content))
    known = (*_PLACES, *_READ_ELSEWHERE)
    for key in values:
        if key not in known:
            raise ConfigError(
                f'{path}: nothing reads the key {key!r}'
                f'{did_you_mean(key, known, 0.6)}'
            )
    found = {
        place: values[key] for key, place in _PLACES.items() if key in values
    }
    found['model.backbone.arch'] = preset(
        values.get('model.backbone', 'dinov3'),
        values.get('model.backbone_size', 'large'),
    )
    found['model.tuning'] = _tuning(values)
    epochs, iterations = (
        int(values.get(f'train.{key}', default))
        for key, default in _LENGTHS.items()
    )
    found['max_iters'] = epochs * iterations
    found['val_interval'] = iterations
    return found


def write_config(source: str | os.PathLike, target: str | os.PathLike) -> Path:
    """Write the config of a YAML file, which inherits from ``BASE``.

    Args:
        source: The YAML file.
        target: The ``.py`` file to write.

    Returns:
        ``target``.

    Raises:
        ConfigError: See ``read_yaml``; or ``target`` is there already and
            holds something else.
    """
    tree: dict[str, Any] = {}
    for key, value in read_yaml(source).items():
        *parents, last = key.split('.')
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    base = str(config_folder() / BASE)
    lines = [f'"""Made of {Path(source).name}."""', '', f'_base_ = {base!r}']
    lines += [
        f'{key} = {pprint.pformat(value, sort_dicts=False)}'
        for key, value in tree.items()
    ]
    text = '\n'.join(lines) + '\n'
    target = Path(target)
    if target.exists() and target.read_text() != text:
        raise ConfigError(
            f'{target} is there already and holds something else; choose '
            'another name, or remove it'
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target


def _leaves(node: Mapping, prefix: str = '') -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', value


def _tuning(values: Mapping[str, Any]) -> dict[str, Any] | None:
    if not values.get('lora.enabled', True):
        return None
    given = {
        ours: values[f'lora.{theirs}']
        for theirs, ours in _LORA.items()
        if f'lora.{theirs}' in values
    }
    return dict(type='lora', **{**_LORA_DEFAULTS, **given})
