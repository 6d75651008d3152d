"""The table of encoders: one name, one network, its weights and licence."""

import difflib
from collections.abc import Mapping
from itertools import chain
from types import MappingProxyType

import torch
from prettytable import PrettyTable

from ...layers.rank import check_spatial_dims
from . import (
    convnext_presets,
    densenet,
    efficientnet_presets,
    hierarchical,
    mit,
    primus,
    regnet,
    resnet,
    resnetv2,
    swin_presets,
    vit_presets,
    xception,
)
from .door import Levels, backbone_levels, build_backbone, type_of
from .encoder import Encoder, PyramidEncoder

_FAMILIES = (
    vit_presets,
    resnet,
    resnetv2,
    regnet,
    xception,
    densenet,
    efficientnet_presets,
    convnext_presets,
    swin_presets,
    mit,
    hierarchical,
    primus,
)


def _merge() -> Mapping[str, Encoder]:
    items = list(chain(*(module.ENCODERS.items() for module in _FAMILIES)))
    table = dict(items)
    if len(table) != len(items):
        names = [name for name, _ in items]
        twice = sorted({n for n in names if names.count(n) > 1})
        raise RuntimeError(f'two encoders are named {twice}')
    return MappingProxyType(table)


ENCODERS = _merge()


def list_encoders(
    *, spatial_dims: int | None = None, family: str | None = None
) -> dict[str, Encoder]:
    """Look up the encoders that ``build_model`` knows by name.

    Args:
        spatial_dims: Only those that can be built for this rank, 2 or 3.
        family: Only those of one family, such as ``'resnet'``.

    Returns:
        Name -> entry: config, weights, licence, normalisation.

    Raises:
        ValueError: There is no such family, or no such rank.
    """
    if spatial_dims is not None:
        check_spatial_dims(spatial_dims)
    families = sorted({entry.family for entry in ENCODERS.values()})
    if family is not None and family not in families:
        raise ValueError(
            f'there is no encoder family {family!r}; choose one of {families}'
        )
    return {
        name: entry
        for name, entry in ENCODERS.items()
        if family in (None, entry.family)
        and (spatial_dims is None or spatial_dims in entry.spatial_dims)
    }


def find_encoder(name: str, *, spatial_dims: int) -> Encoder:
    """Return one entry of the table.

    Raises:
        ValueError: There is no such name, or not for this rank; names the
            closest ones.
    """
    if name not in ENCODERS:
        close = difflib.get_close_matches(name, ENCODERS, n=5, cutoff=0.4)
        hint = f'; did you mean {" or ".join(map(repr, close))}?' * bool(close)
        raise ValueError(
            f'there is no encoder {name!r}{hint} list_encoders() names all '
            f'{len(ENCODERS)}'
        )
    if spatial_dims not in ENCODERS[name].spatial_dims:
        others = list_encoders(spatial_dims=spatial_dims)
        families = sorted({entry.family for entry in others.values()})
        raise ValueError(
            f'encoder {name!r} takes spatial_dims='
            f'{ENCODERS[name].spatial_dims} only, asked for {spatial_dims}; '
            f'the families {families} can be built for it'
        )
    return ENCODERS[name]


def measure_encoder(entry: Encoder) -> tuple[int, Levels]:
    """Build an encoder for images and count.

    Ours take no memory; a borrowed network often computes numbers while it is
    built, which needs the CPU.

    Returns:
        Its parameters, without classifier; and its channels and strides.
    """
    numbers = dict(in_channels=3, spatial_dims=2)
    ours = issubclass(type_of(entry.backbone), PyramidEncoder)
    with torch.device('meta' if ours else 'cpu'):
        backbone, _ = build_backbone(entry.backbone, **numbers)
        levels = backbone_levels(backbone, **numbers)
    return sum(p.numel() for p in backbone.parameters()), levels


def encoder_table(
    entries: Mapping[str, Encoder], *, markdown: bool = False
) -> str:
    """Build every encoder, and write a table of them.

    Args:
        entries: From ``list_encoders``.
        markdown: In Markdown, with links; otherwise for a terminal.

    Returns:
        One line an encoder: ranks, parameters in millions, stride: channels
        a map (``+ neck`` where a neck makes the pyramid), weights, licence,
        what the tests compare it with. An encoder whose library is not
        installed says so.
    """
    head = [
        *('encoder', 'ranks', 'parameters', 'pyramid', 'weights', 'licence'),
        'checked against',
    ]
    rows = [
        _row(name, entry, markdown=markdown) for name, entry in entries.items()
    ]
    if markdown:
        lines = [head, ['---'] * len(head), *rows]
        return '\n'.join(f'| {" | ".join(line)} |' for line in lines)
    table = PrettyTable(head)
    table.align = 'l'
    table.add_rows(rows)
    return table.get_string()


def _row(name: str, entry: Encoder, *, markdown: bool) -> list[str]:
    try:
        parameters, levels = measure_encoder(entry)
        size = f'{parameters / 1e6:.1f} M'
        maps = [
            f'{max(stride):g}: {channels}'
            for channels, stride in zip(
                levels.channels, levels.strides, strict=True
            )
        ]
        equal = len(maps) > 1 and len(set(maps)) == 1
        pyramid = f'{len(maps)} x {maps[0]}' if equal else ', '.join(maps)
    except ImportError:
        size, pyramid = f'needs {entry.requires}', ''
    kind = entry.backbone['type']
    library = (
        'transformers'
        if kind == 'upernet_ext.TransformersBackbone'
        else kind.split('.')[0]
    )
    return [
        name,
        ', '.join(f'{rank}D' for rank in entry.spatial_dims),
        size,
        pyramid + ' + neck' * bool(entry.neck),
        _weights(entry, markdown=markdown),
        entry.licence,
        entry.reference
        or (f'is {library}' if library != 'upernet_ext' else 'nothing'),
    ]


def _weights(entry: Encoder, *, markdown: bool) -> str:
    source = entry.weights
    if isinstance(source, Mapping):
        source = source['checkpoint']
    kind = 'file' if source else 'page' if entry.weights_page else 'none'
    address = source or entry.weights_page
    return f'[{kind}]({address})' if markdown and address else kind
