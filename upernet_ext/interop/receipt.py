"""Load weights completely, or say exactly what did not match."""

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

# How many names an error lists.
_SHOWN = 8


class WeightsError(ValueError):
    """Weights that do not fit the model; the message names each key."""


@dataclass(frozen=True)
class Change:
    """What was done to a tensor between the file and the model.

    Attributes:
        name: The model's name of it.
        kind: ``'resized'`` for values resampled to another grid,
            ``'reshaped'`` for the same function of another input (channels,
            patch), ``'set'`` for a declared value that the file lacks.
        old: Shape in the file; ``None`` where it was not in the file.
        new: Shape in the model.
        why: The reason, for a reader.
    """

    name: str
    kind: Literal['resized', 'reshaped', 'set']
    old: tuple[int, ...] | None
    new: tuple[int, ...]
    why: str = ''

    def __str__(self) -> str:
        old = '' if self.old is None else f'{self.old} -> '
        why = f' ({self.why})' if self.why else ''
        return f'{self.kind} {self.name}: {old}{self.new}{why}'


@dataclass(frozen=True)
class Receipt:
    """What a load did with every tensor.

    Attributes:
        source: Where the weights came from.
        matched: Names in the model that were loaded.
        style: Whose names the file has, such as ``'mmseg'``; empty where it
            has the model's own.
        renamed: Name in the file -> name in the model, where they differ;
            names that were joined have the same name in the model.
        changes: Tensors that are not in the file as they are in the model.
        unused: Names in the file that the model declares it has no use for
            (a classifier, blocks behind the last used one).
        missing: Names in the model that such files lack, as the model
            declares: they keep their initial value.
        parameters: Values loaded, per top-level module of the model.
    """

    source: str
    matched: tuple[str, ...]
    style: str = ''
    renamed: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    unused: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    parameters: Mapping[str, int] = field(default_factory=dict)

    def summary(self) -> str:
        """One readable paragraph for the log."""
        total = sum(self.parameters.values())
        style = f' ({self.style} names)' if self.style else ''
        lines = [
            f'{len(self.matched)} tensors, {total:,} values loaded from '
            f'{self.source}{style}: '
            + ', '.join(f'{m} {n:,}' for m, n in self.parameters.items())
        ]
        if self.renamed:
            pairs = [f'{old} -> {new}' for old, new in self.renamed.items()]
            lines.append(f'  {len(pairs)} renamed: {_some(pairs, 2)}')
        lines += _list_changes(self.changes)
        if self.unused:
            lines.append(f'  not used by this model: {_some(self.unused)}')
        if self.missing:
            lines.append(
                f'  not in the file, left as initialised: '
                f'{_some(self.missing)}'
            )
        return '\n'.join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain containers, to be stored in a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> 'Receipt':
        """Read what ``to_dict`` wrote; a checkpoint's ``meta['receipt']``."""
        values = {k: v for k, v in stored.items() if k != 'resized'}
        changes = [_change(c) for c in values.get('changes', ())]
        # Before there were changes, only resized shapes were stored.
        changes += [
            Change(name, 'resized', tuple(old), tuple(new))
            for name, (old, new) in stored.get('resized', {}).items()
        ]
        for name in ('matched', 'unused', 'missing'):
            values[name] = tuple(values.get(name, ()))
        return cls(**{**values, 'changes': tuple(changes)})


def _change(stored: Mapping[str, Any]) -> Change:
    old = stored['old']
    return Change(
        **{
            **stored,
            'old': old if old is None else tuple(old),
            'new': tuple(stored['new']),
        }
    )


def _list_changes(changes: Sequence[Change]) -> list[str]:
    """One line a change; one for all of a kind where there are many."""
    groups: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        groups.setdefault((change.kind, change.why), []).append(change)
    lines = []
    for (kind, why), group in groups.items():
        if len(group) <= _SHOWN:
            lines += [f'  {change}' for change in group]
        else:
            names = _some([change.name for change in group], 2)
            lines.append(f'  {len(group)} {kind}: {names} ({why})')
    return lines


def _some(names: Sequence[str], shown: int = _SHOWN) -> str:
    more = len(names) - shown
    return ', '.join(names[:shown]) + (f' and {more} more' if more > 0 else '')


def closest(names: Sequence[str], candidates: Mapping[str, str]) -> str:
    """List names, each with the one in the file that looks most like it.

    Args:
        names: That the model has and the file lacks.
        candidates: Left over in the file: name as the model would have it ->
            name in the file.
    """
    shown = []
    for name in names[:_SHOWN]:
        close = difflib.get_close_matches(name, candidates, n=1, cutoff=0.7)
        shown.append(
            f'{name} (the file has {candidates[close[0]]})' if close else name
        )
    return _some([*shown, *names[_SHOWN:]])


def published_name(name: str) -> str:
    """Name a parameter has in published files: without peft's wrapper."""
    return name.replace('.base_layer.', '.')


def is_adapter(name: str) -> bool:
    """Tell a parameter that low-rank adaptation added to the network."""
    return any(part.startswith('lora_') for part in name.split('.'))


def wanted_names(
    module: nn.Module, state_dict: Mapping[str, Tensor]
) -> dict[str, str]:
    """List what a file has to bring: its name there -> name in the module.

    A network under low-rank adaptation takes files of the network alone and
    files of the adapted one, and then with the whole adapter.
    """
    adapted = any(is_adapter(name) for name in state_dict)
    names = {}
    for name in module.state_dict():
        if adapted or not is_adapter(name):
            whole = name in state_dict or adapted
            names[name if whole else published_name(name)] = name
    return names


@dataclass(frozen=True)
class Reading:
    """A file's weights under our names.

    Attributes:
        state_dict: Our names and the tensors.
        style: Whose names the file has; ``''`` for ours.
        renamed: Name in the file -> name here, where they differ.
        outside: Names in the file that are no part of the network (heads).
        tried: The styles that were asked.
    """

    state_dict: Mapping[str, Tensor]
    style: str = ''
    renamed: Mapping[str, str] = field(default_factory=dict)
    outside: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()


def load_weights(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    source: str,
    ignored: Sequence[str] = (),
    optional: Sequence[str] = (),
    changes: Sequence[Change] = (),
    reading: Reading | None = None,
) -> Receipt:
    """Copy ``state_dict`` into ``module``; every tensor must match.

    Nothing is copied unless everything fits.

    Args:
        module: The model, or a part of it; also one adapted by peft.
        state_dict: Names and tensors; ``num_batches_tracked`` counters may be
            missing (files older than torch 0.4.1).
        source: Where they come from, for messages.
        ignored: Prefixes of names in the file that are not wanted.
        optional: Prefixes of names that the file need not have.
        changes: What was changed before; goes into the receipt.
        reading: How the names were found; goes into the receipt, and names
            in errors are then the file's.

    Raises:
        WeightsError: A name is missing or left over, or a shape differs.
    """
    reading = reading or Reading(state_dict)
    names = wanted_names(module, state_dict)
    held = module.state_dict()
    own = {there: held[here] for there, here in names.items()}
    allowed, missing = _absent(own, state_dict, optional)
    in_file = {new: old for old, new in reading.renamed.items()}
    extra = [k for k in state_dict if k not in own]
    unused = [k for k in extra if k.startswith(tuple(ignored))]
    left_over = {k: in_file.get(k, k) for k in extra if k not in unused}
    problems = _problems(own, state_dict, missing, left_over)
    if problems:
        raise WeightsError(
            f'{source}{_as_read(reading)} does not fit '
            f'{type(module).__name__}: '
            + '; '.join(problems)
            + '. Nothing was loaded. Use the config that the weights were '
            'trained with, or a key_map that renames them'
        )
    matched = [k for k in own if k in state_dict]
    module.load_state_dict(
        {names[k]: state_dict[k] for k in matched}, strict=False
    )
    counts = Counter()
    for name in matched:
        counts[name.split('.')[0]] += own[name].numel()
    return Receipt(
        source,
        tuple(matched),
        style=reading.style,
        renamed=dict(reading.renamed),
        changes=tuple(changes),
        unused=(*(in_file.get(k, k) for k in unused), *reading.outside),
        missing=tuple(allowed),
        parameters=dict(counts),
    )


def _absent(
    own: Collection[str], state_dict: Collection[str], optional: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the names that a file lacks and may lack, and the others."""
    absent = [k for k in own if k not in state_dict]
    allowed = [k for k in absent if k.startswith(tuple(optional))]
    missing = [
        k
        for k in absent
        if k not in allowed and not k.endswith('num_batches_tracked')
    ]
    return allowed, missing


def _problems(
    own: Mapping[str, Tensor],
    state_dict: Mapping[str, Tensor],
    missing: Sequence[str],
    left_over: Mapping[str, str],
) -> list[str]:
    """Say what does not fit, each key by its name."""
    problems = []
    if missing:
        problems.append(
            f'{len(missing)} missing from it: {closest(missing, left_over)}'
        )
    if left_over:
        problems.append(
            f'{len(left_over)} in it that the model lacks: '
            f'{_some(list(left_over.values()))}{_common(left_over)}'
        )
    misshapen = [
        f'{k} ({tuple(v.shape)} in the file, {tuple(own[k].shape)} here)'
        for k, v in state_dict.items()
        if k in own and v.shape != own[k].shape
    ]
    if misshapen:
        problems.append(f'{len(misshapen)} of other shape: {_some(misshapen)}')
    return problems


def _common(left_over: Mapping[str, str]) -> str:
    """Say what all names begin with, where that is a wrapper's prefix."""
    first = {name.partition('.')[0] for name in left_over.values()}
    several = len(left_over) > 1 and '.' in next(iter(left_over.values()))
    if len(first) > 1 or not several:
        return ''
    return f'; all begin with {first.pop()}.'


def _as_read(reading: Reading) -> str:
    if reading.style:
        return f' (read as {reading.style} names)'
    if reading.tried:
        return f' (names tried: the model, {", ".join(reading.tried)})'
    return ''
