"""What of a model is trained: adapters beside frozen weights, or a part."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mmengine.logging import print_log
from torch import nn

from .freeze import freeze
from .lora import (
    adapted_layers,
    add_lora,
    disable_lora,
    enable_lora,
    merge_lora,
    reset_lora,
)

__all__ = [
    'TUNINGS',
    'adapted_layers',
    'add_lora',
    'apply_tuning',
    'count_parameters',
    'disable_lora',
    'enable_lora',
    'freeze',
    'log_parameters',
    'merge_lora',
    'parameter_table',
    'reset_lora',
]

# Each changes a backbone in place, and returns what stays in evaluation mode.
TUNINGS: Mapping[str, Callable[..., list[nn.Module]]] = dict(
    lora=add_lora, freeze=freeze
)


def apply_tuning(
    backbone: nn.Module, tuning: Mapping[str, Any]
) -> list[nn.Module]:
    """Choose what of a backbone is trained.

    Args:
        backbone: Changed in place.
        tuning: ``dict(type='lora', targets=['qkv'], rank=8, alpha=16.0,
            dropout=0.05)``, see ``add_lora``; or ``dict(type='freeze',
            what='all')``, see ``freeze``.

    Returns:
        Modules that stay in evaluation mode while the model is trained.

    Raises:
        ValueError: An unknown type or option, or one that does not fit.
    """
    options = dict(tuning)
    kind = options.pop('type', None)
    if kind not in TUNINGS:
        raise ValueError(
            f'tuning.type must be one of {sorted(TUNINGS)}, got {kind!r}'
        )
    known = list(inspect.signature(TUNINGS[kind]).parameters)[1:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(
            f'tuning of type {kind!r} has no option {unknown}; there are '
            f'{known}'
        )
    return TUNINGS[kind](backbone, **options)


def count_parameters(modules: Iterable[nn.Module]) -> tuple[int, int]:
    """Count the values that are trained, and all."""
    values = {p: math.prod(p.shape) for m in modules for p in m.parameters()}
    trained = sum(n for p, n in values.items() if p.requires_grad)
    return trained, sum(values.values())


def parameter_table(counts: Mapping[str, tuple[int, int]]) -> str:
    """Write trained and total parameters as a table, with their sums.

    Args:
        counts: Module -> trained and total.
    """
    rows = [*counts.items()]
    rows.append(('total', tuple(map(sum, zip(*counts.values(), strict=True)))))
    lines = [f'{"module":<16}{"trained":>15}{"total":>15}{"share":>9}']
    for name, (trained, total) in rows:
        share = trained / total if total else 0.0
        lines.append(f'{name:<16}{trained:>15,}{total:>15,}{share:>9.2%}')
    return '\n'.join(lines)


def log_parameters(model: nn.Module) -> None:
    """Log what is trained, by the model's parts."""
    counts = {
        name: count_parameters([child])
        for name, child in model.named_children()
    }
    table = parameter_table({k: v for k, v in counts.items() if v[1]})
    print_log(f'Parameters:\n{table}', logger='current')
