"""torch.compile of a segmentor, part by part."""

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

_PARTS = ('backbone', 'neck', 'decode_head', 'auxiliary_head')
# These record CUDA graphs, whose results the next call overwrites.
_GRAPHS = ('reduce-overhead', 'max-autotune')


def compile_parts(model: nn.Module, **options: Any) -> list[str]:
    """Compile the forward of backbone, neck and heads, each by itself.

    Losses, predictions and the optimiser stay as they are, and so do the
    names in the state dict. Nothing is compiled before the first call.

    Args:
        model: A segmentor; changed in place.
        **options: Of ``torch.compile``, such as ``mode='max-autotune'``.

    Returns:
        The names of the parts.

    Raises:
        ValueError: It has none of these parts.
    """
    parts = dict(_find_parts(model))
    if not parts:
        raise ValueError(
            f'{type(model).__name__} has none of {list(_PARTS)}, so there is '
            'nothing to compile; remove `compile` from the config'
        )
    for part in parts.values():
        # A head's loss calls forward itself.
        forward = torch.compile(part.forward, **options)
        keeps = options.get('mode') not in _GRAPHS
        part.forward = forward if keeps else _copied(forward)
    return list(parts)


def options_of(setting: bool | Mapping[str, Any] | None) -> dict | None:
    """Read the config's ``compile``; ``None`` is not to compile.

    Raises:
        ValueError: It is neither a bool nor a dict.
    """
    if setting is None or isinstance(setting, bool):
        return {} if setting else None
    if not isinstance(setting, Mapping) or 'target' in setting:
        raise ValueError(
            'compile must be true, false or a dict of arguments of '
            "torch.compile, such as dict(mode='max-autotune'), without "
            f'`target`; got {setting!r}'
        )
    return dict(setting)


def _find_parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name in _PARTS:
        part = getattr(model, name, None)
        if isinstance(part, nn.ModuleList):
            yield from ((f'{name}.{i}', one) for i, one in enumerate(part))
        elif isinstance(part, nn.Module):
            yield name, part


def _copied(forward: Callable) -> Callable:
    @wraps(forward)
    def call(*args: Any, **kwargs: Any) -> Any:
        return tree_map_only(Tensor, Tensor.clone, forward(*args, **kwargs))

    return call
