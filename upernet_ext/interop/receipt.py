"""Load weights completely, or say exactly what did not match."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from torch import Tensor, nn

# How many names an error lists.
_SHOWN = 8


class WeightsError(ValueError):
    """Weights that do not fit the model; the message names each key."""


@dataclass(frozen=True)
class Receipt:
    """What a load did with every tensor.

    Attributes:
        source: Where the weights came from.
        matched: Names that were loaded.
        resized: Name -> (shape in the file, shape in the model), for
            position embeddings resampled to another grid.
        unused: Names in the file that the model declares it has no use for
            (a classifier, blocks behind the last used one).
        parameters: Values loaded, per top-level module of the model.
    """

    source: str
    matched: tuple[str, ...]
    resized: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(
        default_factory=dict
    )
    unused: tuple[str, ...] = ()
    parameters: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """One readable paragraph for the log."""
        total = sum(self.parameters.values())
        lines = [
            f'{len(self.matched)} tensors, {total:,} values loaded from '
            f'{self.source}: '
            + ', '.join(f'{m} {n:,}' for m, n in self.parameters.items())
        ]
        lines += [
            f'  resized {name}: {old} -> {new}'
            for name, (old, new) in self.resized.items()
        ]
        if self.unused:
            lines.append(f'  not used by this model: {_some(self.unused)}')
        return '\n'.join(lines)

    def to_dict(self) -> dict:
        """Plain containers, to be stored in a checkpoint."""
        return asdict(self)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ', '.join(names[:_SHOWN]) + (
        f' and {more} more' if more > 0 else ''
    )


def _closest(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.7)
    return f'{name} (the file has {close[0]})' if close else name


def load_weights(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    source: str,
    ignored: Sequence[str] = (),
    optional: Sequence[str] = (),
    resized: Mapping[str, tuple] | None = None,
) -> Receipt:
    """Copy ``state_dict`` into ``module``; every tensor must match.

    Nothing is copied unless everything fits.

    Args:
        module: The model, or a part of it.
        state_dict: Names and tensors; ``num_batches_tracked`` counters may be
            missing (files older than torch 0.4.1).
        source: Where they come from, for messages.
        ignored: Prefixes of names in the file that are not wanted.
        optional: Prefixes of names that the file need not have.
        resized: What was resampled before; goes into the receipt.

    Raises:
        WeightsError: A name is missing or left over, or a shape differs.
    """
    own = module.state_dict()
    unused = tuple(
        k for k in state_dict if k not in own and k.startswith(tuple(ignored))
    )
    left_over = [k for k in state_dict if k not in own and k not in unused]
    missing = [
        k
        for k in own
        if k not in state_dict
        and not k.startswith(tuple(optional))
        and not k.endswith('num_batches_tracked')
    ]
    misshapen = [
        f'{k} ({tuple(v.shape)} in the file, {tuple(own[k].shape)} here)'
        for k, v in state_dict.items()
        if k in own and v.shape != own[k].shape
    ]
    problems = []
    if missing:
        names = [_closest(k, left_over) for k in missing[:_SHOWN]]
        names += missing[_SHOWN:]
        problems.append(f'{len(missing)} missing from it: {_some(names)}')
    if left_over:
        problems.append(
            f'{len(left_over)} in it that the model lacks: {_some(left_over)}'
        )
    if misshapen:
        problems.append(f'{len(misshapen)} of other shape: {_some(misshapen)}')
    if problems:
        raise WeightsError(
            f'{source} does not fit {type(module).__name__}: '
            + '; '.join(problems)
            + '. Nothing was loaded. Use the config that the weights were '
            'trained with, or a key_map that renames them'
        )
    matched = tuple(k for k in own if k in state_dict)
    module.load_state_dict({k: state_dict[k] for k in matched}, strict=False)
    counts = Counter()
    for name in matched:
        counts[name.split('.')[0]] += own[name].numel()
    return Receipt(source, matched, resized or {}, unused, dict(counts))
