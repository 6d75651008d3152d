"""A volume of identical slices gives the 2D network's features, everywhere.

Random weights have non-zero layer scales, response norms and statistics, and
go through the loading door.
"""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from upernet_ext.models.backbones.volume_table import (
    DEPTH,
    EDGE,
    EXACT,
    NETWORKS,
    SPACINGS,
    adapted,
    adapters_of,
    deviation,
    volume_table,
)

DOCUMENT = Path(__file__).parents[3] / 'docs' / 'volumes.md'
CUBES, THICK = SPACINGS
CASES = [
    pytest.param(
        name,
        adapter,
        spacing,
        id=f'{name}-{adapter}-{"cubes" if spacing is CUBES else "thick"}',
        # Of borrowed networks nothing but the convolutions is another.
        marks=[pytest.mark.slow] * (spacing is THICK and name[0].islower()),
    )
    for name, cfg in NETWORKS.items()
    for adapter in adapters_of(cfg)
    for spacing in SPACINGS
    if adapter != 'acs'
]


def check_strides(volume: nn.Module) -> None:
    """Compare what the network says with the maps that it gives."""
    with torch.no_grad():
        maps = volume(torch.randn(1, 3, DEPTH, EDGE, EDGE))
    # Xception's stem pads nothing.
    border = 5 if type(volume).__name__ == 'Xception' else 0
    for found, stride in zip(maps, volume.out_strides, strict=True):
        for size, axis, edge in zip(
            found.shape[2:], stride, (DEPTH, EDGE, EDGE), strict=True
        ):
            assert -1 < edge / axis - size < 1 + border


@pytest.mark.parametrize(('name', 'adapter', 'spacing'), CASES)
def test_identical_slices(name: str, adapter: str, spacing: tuple) -> None:
    plane, volume = adapted(NETWORKS[name], adapter, spacing)
    assert deviation(plane, volume) <= EXACT
    check_strides(volume)
    for along, *in_plane in volume.out_strides:
        # (1, 2, 2) twice, then (2, 2, 2).
        skipped = 4 if spacing == THICK else 1
        expected = max(1, in_plane[0] / skipped)
        assert along == pytest.approx(expected, abs=0.5)


@pytest.mark.parametrize('name', ['ResNet', 'ConvNeXt', 'mmseg.ResNet'])
def test_mean_initialisation_would_not_be_exact(name: str) -> None:
    """The measure sees what I3D's inflation does at the ends."""
    plane, volume = adapted(NETWORKS[name], 'inflate', SPACINGS[0])
    for layer in volume.modules():
        weight = getattr(layer, 'weight', None)
        if weight is not None and weight.ndim == 5:
            weight.data = weight.mean(2, keepdim=True).expand_as(weight)
    assert deviation(plane, volume) > 0.1


@pytest.mark.slow
def test_the_document_holds_the_table() -> None:
    """But for the numbers, which differ from machine to machine."""
    written = DOCUMENT.read_text().split('-->\n\n')[1].splitlines()
    measured = volume_table().splitlines()
    assert len(written) == len(measured)
    for old, new in zip(written, measured, strict=True):
        for there, here in zip(
            old.strip('| ').split(' | '),
            new.strip('| ').split(' | '),
            strict=True,
        ):
            if re.search(r'\de[+-]', here):
                values = [float(v) for v in there.split(', ')]
                assert max(values) <= EXACT
                assert len(values) == len(SPACINGS)
            else:
                assert there == here
