"""Say what is in a file of weights."""

import os
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from ..interop import STYLES, Receipt, read_checkpoint
from ..interop.parts import PARTS
from ..interop.styles import unwrapped

_SHOWN = 12


def describe(source: str | os.PathLike) -> str:
    """Describe a file: style, tensors, parameters a module, receipt.

    Args:
        source: Whatever ``read_checkpoint`` takes.

    Raises:
        WeightsError: It cannot be read.
    """
    checkpoint = read_checkpoint(source)
    state_dict = checkpoint['state_dict']
    total = sum(v.numel() for v in state_dict.values())
    kinds = sorted({str(v.dtype) for v in state_dict.values()})
    lines = [
        f'{source}: {len(state_dict)} tensors, {total:,} values, '
        f'{", ".join(kinds)}',
        f'names: {", ".join(_styles(state_dict)) or "of no style we know"}',
    ]
    lines += [f'  {name:<24} {n:>14,}' for name, n in _modules(state_dict)]
    meta = checkpoint.get('meta', {})
    classes = (meta.get('dataset_meta') or {}).get('classes')
    if classes:
        lines.append(f'classes: {", ".join(map(str, classes))}')
    if meta.get('receipt'):
        lines.append('receipt of the weights that it began with:')
        lines.append(Receipt.from_dict(meta['receipt']).summary())
    else:
        lines.append('no receipt in it')
    return '\n'.join(lines)


def _styles(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Name the families' styles that recognise the file, or its backbone."""
    found = {}
    for prefix, inside in unwrapped(state_dict):
        for family, styles in STYLES.items():
            for style in styles:
                if style.recognises(inside.keys()):
                    found.setdefault(f'{style.name} ({family})', prefix)
                    break
    return [
        f'{name} behind {prefix!r}' if prefix else name
        for name, prefix in found.items()
    ]


def _modules(state_dict: Mapping[str, Tensor]) -> list[tuple[str, int]]:
    """Count values by the names' first part; a backbone alone by two."""
    whole = any(name.split('.')[0] in PARTS for name in state_dict)
    counts = Counter()
    for name, value in state_dict.items():
        parts = name.split('.')
        counts['.'.join(parts[: 1 if whole or len(parts) < 3 else 2])] += (
            value.numel()
        )
    if len(counts) <= _SHOWN:
        return list(counts.items())
    rest = counts.most_common()[_SHOWN:]
    shown = counts.most_common(_SHOWN)
    return [*shown, (f'{len(rest)} others', sum(n for _, n in rest))]
