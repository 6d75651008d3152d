"""A model in a folder: its weights, and the config that rebuilds it."""

import inspect
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from mmengine.logging import print_log
from mmengine.registry import (
    TASK_UTILS,
    WEIGHT_INITIALIZERS,
    DefaultScope,
    Registry,
)
from safetensors.torch import save_file

from ...interop import Receipt, WeightsError, load_weights, read_checkpoint
from ...registry import MODELS
from ..backbones import type_of

CONFIG_FILE, WEIGHTS_FILE = 'config.json', 'model.safetensors'
# Whoever else is named in a stored config is not imported.
_SCOPES = ('upernet_ext', 'mmengine', 'mmcv', 'mmseg', 'mmpretrain')
# What a model's config names beside modules: how weights start, and samplers.
_WITHIN = {MODELS.name: (WEIGHT_INITIALIZERS, TASK_UTILS)}
_KINDS = {MODELS.name: 'part of a model'}
_TYPE = re.compile(rf'(({"|".join(_SCOPES)})\.)?[A-Za-z_]\w*')


class SavedModel:
    """Give a model ``save_pretrained`` and ``from_pretrained``.

    What a model was built with is remembered as ``init_arguments``.
    """

    init_arguments: Mapping[str, Any]
    receipt: Receipt | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments. A copy is made without, and gets them."""
        model = super().__new__(cls)
        if args or kwargs:
            bound = inspect.signature(cls.__init__).bind(None, *args, **kwargs)
            arguments = dict(bound.arguments)
            del arguments['self']
            # nn.Module takes attributes after its __init__ only.
            model.__dict__['init_arguments'] = arguments
        return model

    def save_pretrained(self, folder: str | os.PathLike) -> Path:
        """Write the model into a folder.

        ``config.json`` holds what rebuilds it (with the normalisation of its
        images), the names of its classes, the config it came with and the
        receipt of its weights; ``model.safetensors`` the weights.

        Args:
            folder: Made where it is missing.

        Returns:
            The folder.

        Raises:
            ValueError: A part was given as a built module, which no config
                describes.
        """
        model = {'type': _registered_name(type(self))}
        for name, value in self.init_arguments.items():
            model[name] = _plain(value, name)
        # Their weights are in the file now.
        model['backbone'].pop('pretrained', None)
        meta = dict(dataset_meta=getattr(self, 'dataset_meta', None))
        if hasattr(self, 'cfg'):
            meta['cfg'] = self.cfg.pretty_text
        if self.receipt is not None:
            meta['receipt'] = self.receipt.to_dict()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = dict(
            library='upernet_ext', model=model, meta=_plain(meta, 'meta')
        )
        text = json.dumps(config, indent=2)
        (folder / CONFIG_FILE).write_text(f'{text}\n')
        weights = {k: v.contiguous() for k, v in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE, metadata={'format': 'pt'})
        return folder

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike,
        *,
        device: str | torch.device = 'cpu',
    ) -> Self:
        """Rebuild a model that ``save_pretrained`` wrote.

        Args:
            folder: That it wrote.
            device: Where to.

        Returns:
            The model in evaluation mode, with ``receipt`` and
            ``dataset_meta``.

        Raises:
            FileNotFoundError: There is no such folder, or nothing in it.
            WeightsError: The weights do not fit, or the config names
                something that is no part of a model.
        """
        checkpoint = read_checkpoint(folder)
        config = checkpoint.get('config', {})
        if config.get('library') != 'upernet_ext' or 'model' not in config:
            raise WeightsError(
                f'{folder} was not written by save_pretrained of this '
                f'package: its {CONFIG_FILE} has no model of upernet_ext; '
                'tools/convert.py reads the folders of other libraries'
            )
        with DefaultScope.overwrite_default_scope('mmseg'):
            check_types(config['model'], source=str(folder))
            found = type_of(config['model'])
            if not issubclass(found, cls):
                raise WeightsError(
                    f'{folder} holds a {found.__name__}, not a {cls.__name__}'
                )
            model = MODELS.build(config['model'])
        model.receipt = load_weights(
            model, checkpoint['state_dict'], source=str(folder)
        )
        print_log(model.receipt.summary(), logger='current')
        dataset_meta = config.get('meta', {}).get('dataset_meta')
        if dataset_meta is not None:
            model.dataset_meta = dataset_meta
        model.to(device)
        model.eval()
        return model


def _registered_name(cls: type) -> str:
    for scope, registry in _libraries(MODELS.parent):
        if cls in registry.module_dict.values():
            return f'{scope}.{cls.__name__}'
    raise ValueError(
        f'{cls.__name__} is in no registry, so no config can name it; '
        'register it with upernet_ext.registry.MODELS'
    )


def _libraries(root: Registry) -> Iterator[tuple[str, Registry]]:
    yield root.scope, root
    yield from root.children.items()


def _registered(kind: str, root: Registry) -> type | None:
    name = kind.split('.')[-1]
    for scope, registry in _libraries(root):
        if kind in (name, f'{scope}.{name}') and name in registry.module_dict:
            return registry.module_dict[name]
    return None


def _plain(value: Any, name: str) -> Any:
    """Turn configs into what JSON holds.

    Raises:
        ValueError: A value has no place there.
    """
    if isinstance(value, Mapping):
        return {k: _plain(v, f'{name}.{k}') for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(v, f'{name}[{i}]') for i, v in enumerate(value)]
    if isinstance(value, type):
        return _registered_name(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ValueError(
        f'{name} of the model is a {type(value).__name__}, which a config '
        'cannot describe; build the model with a config, such as '
        "backbone=dict(type='upernet_ext.VisionTransformer', ...)"
    )


def check_types(
    config: Any,
    *,
    source: str,
    name: str = 'model',
    registry: Registry = MODELS,
) -> None:
    """Refuse a stored config that builds what no registry knows.

    A registry imports and calls whatever a ``type`` spells, from any module.

    Args:
        config: Read from a file.
        source: The file, for messages.
        name: Of this part of the config, for messages.
        registry: That builds it.

    Raises:
        WeightsError: Some ``type`` is no registered module.
    """
    if isinstance(config, Mapping):
        if 'type' in config and not _is_part(config['type'], registry):
            raise WeightsError(
                f'{source}: {name}.type={config["type"]!r} is no '
                f'{_KINDS.get(registry.name, registry.name)} that '
                f'{", ".join(_SCOPES)} register, and is not built, because '
                'that could run code; check where the file is from'
            )
        for key, value in config.items():
            # A type of tuning names a function, not what a registry builds.
            if (name, key) != ('model', 'tuning'):
                check_types(
                    value,
                    source=source,
                    name=f'{name}.{key}',
                    registry=registry,
                )
    elif isinstance(config, list | tuple):
        for i, value in enumerate(config):
            check_types(
                value, source=source, name=f'{name}[{i}]', registry=registry
            )


def _is_part(kind: object, registry: Registry) -> bool:
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind):
        return False
    if '.' in kind:
        # Imports what registers it. Of a name without scope a registry would
        # import a module.
        type_of(dict(type=kind)) if registry is MODELS else registry.get(kind)
    registries = (registry.parent, *_WITHIN.get(registry.name, ()))
    return any(_registered(kind, root) is not None for root in registries)
