"""Whose names a file has, and what they are here."""

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from . import (
    convnext,
    densenet,
    efficientnet,
    mit,
    regnet,
    resnet,
    swin,
    torchvision,
    vit,
    xception,
)
from .key_style import KeyStyle
from .receipt import Reading, WeightsError

# What wrappers, trainers and segmentors put before every name.
PREFIXES = (
    *('module.', '_orig_mod.', 'model.', 'backbone.', 'encoder.'),
    *('teacher.', 'student.', 'target_encoder.', 'visual.'),
)


# Names of the transformers library's networks behind ``TransformersBackbone``
# are told by ``key_map``; those of every other family are here.
STYLES: Mapping[str, tuple[KeyStyle, ...]] = {
    'convnext': convnext.STYLES,
    'densenet': densenet.STYLES,
    'efficientnet': efficientnet.STYLES,
    'mit': mit.STYLES,
    'regnet': regnet.STYLES,
    'vit': vit.STYLES,
    'xception': xception.STYLES,
    **resnet.STYLES,
    **swin.STYLES,
    **torchvision.STYLES,
}


def library_class(module: nn.Module) -> str:
    """Name a class with the library that it is from: ``mmseg.MobileNetV2``."""
    return f'{type(module).__module__.split(".")[0]}.{type(module).__name__}'


def styles_of(backbone: nn.Module) -> tuple[KeyStyle, ...]:
    """Return the styles known for a backbone, by its ``key_family``.

    A borrowed backbone has none; ``library_class`` stands for it.
    """
    family = getattr(backbone, 'key_family', library_class(backbone))
    return STYLES.get(family, ())


class _Traced(Tensor):
    """A tensor that knows from which names in a file it was made."""

    names: tuple[str, ...] = ()

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: Sequence = (),
        kwargs: Mapping | None = None,
    ) -> Any:
        result = super().__torch_function__(func, types, args, kwargs)
        names = {
            name: None
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, cls)
            for name in leaf.names
        }
        for leaf in tree_leaves(result):
            if isinstance(leaf, cls):
                leaf.names = tuple(names)
        return result


def unwrapped(
    state_dict: Mapping[str, Tensor], prefix: str = ''
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the names as they are, then without each wrapper's prefix."""
    yield prefix, dict(state_dict)
    for known in PREFIXES:
        inside = {
            name.removeprefix(known): value
            for name, value in state_dict.items()
            if name.startswith(known)
        }
        if inside:
            yield from unwrapped(inside, prefix + known)


def apply_style(
    style: KeyStyle,
    state_dict: Mapping[str, Tensor],
    *,
    source: str,
    prefix: str = '',
) -> Reading:
    """Rename, and note what became of each name.

    Args:
        style: Whose names they are.
        state_dict: Names and tensors.
        source: Where they come from, for messages.
        prefix: What the names in the file have before those here.

    Raises:
        WeightsError: A name that another one needs is missing.
    """
    traced = {}
    for name, value in state_dict.items():
        traced[name] = value.as_subclass(_Traced)
        traced[name].names = (prefix + name,)
    try:
        renamed = style.from_style(traced)
    except (LookupError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f'{source} was taken for {style.name} names, but has none or '
            f'another shape of {error}'
        ) from error
    origins = {
        name: value.names
        for name, value in renamed.items()
        if isinstance(value, _Traced)
    }
    pairs = {}
    for new, olds in origins.items():
        for old in olds:
            if old != new:
                pairs[old] = f'{pairs[old]} + {new}' if old in pairs else new
    return Reading(
        {name: value.as_subclass(Tensor) for name, value in renamed.items()},
        style.name,
        pairs,
    )


def _sources(reading: Reading, wanted: Set[str]) -> dict[str, str]:
    """Tell what of the names that are wanted was renamed, and from what."""
    return {
        old: new
        for old, new in reading.renamed.items()
        if not wanted.isdisjoint(new.split(' + '))
    }


def recognise(
    state_dict: Mapping[str, Tensor],
    wanted: Collection[str],
    styles: Sequence[KeyStyle],
    *,
    source: str,
) -> Reading:
    """Find whose names a file has: those that leave the fewest gaps.

    Args:
        state_dict: Names in the file and tensors.
        wanted: Our names.
        styles: Of the network's family; the model's own names are tried too.
        source: Where it comes from, for messages.

    Raises:
        WeightsError: Two styles fit equally well and disagree, or the file
            has the style's names but not all that belong together.
    """
    wanted = set(wanted)
    own = KeyStyle('', lambda names: not wanted.isdisjoint(names), dict, dict)
    found, failures = _readings(state_dict, (own, *styles), source)
    readings = [
        (len(wanted - set(reading.state_dict)), prefix, reading)
        for prefix, reading in found
    ]
    tried = tuple(style.name for style in styles)
    if not readings:
        if failures:
            raise failures[0]
        return Reading(dict(state_dict), tried=tried)
    gaps = min(gaps for gaps, _, _ in readings)
    best = [r for r in readings if r[0] == gaps]
    _, prefix, reading = best[0]
    sources = _sources(reading, wanted)
    others = [r for _, _, r in best[1:] if _sources(r, wanted) != sources]
    if others:
        names = [r.style or 'the model itself' for r in (reading, *others)]
        raise WeightsError(
            f'{source} could be in the names of {" or of ".join(names)}; '
            'say which with pretrained=dict(checkpoint=..., key_map=...)'
        )
    outside = tuple(n for n in state_dict if not n.startswith(prefix))
    return Reading(
        reading.state_dict, reading.style, reading.renamed, outside, tried
    )


def _readings(
    state_dict: Mapping[str, Tensor], styles: Sequence[KeyStyle], source: str
) -> tuple[list[tuple[str, Reading]], list[WeightsError]]:
    """Read a file in all styles that know its names, behind any prefix."""
    readings, failures = [], []
    for prefix, inside in unwrapped(state_dict):
        for style in styles:
            if not style.recognises(inside.keys()):
                continue
            try:
                reading = apply_style(
                    style, inside, source=source, prefix=prefix
                )
            except WeightsError as error:
                failures.append(error)
            else:
                readings.append((prefix, reading))
    return readings, failures
