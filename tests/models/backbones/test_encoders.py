"""The table of encoders, whole."""

import functools
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from upernet_ext.config import config_folder, load_config
from upernet_ext.models.backbones import build_backbone, encoders, type_of
from upernet_ext.models.backbones.encoder import PyramidEncoder
from upernet_ext.models.backbones.encoders import (
    ENCODERS,
    encoder_table,
    find_encoder,
    list_encoders,
    measure_encoder,
)

ROOT = Path(__file__).parents[3]
OURS = [
    name
    for name, entry in ENCODERS.items()
    if issubclass(type_of(entry.backbone), PyramidEncoder)
]
PLAIN = [name for name in OURS if ENCODERS[name].neck]


def test_every_entry_says_where_it_is_from():
    for name, entry in ENCODERS.items():
        assert entry.source.startswith('https://'), name
        assert len(entry.mean) == len(entry.std) == 3, name
        weights = entry.weights
        if isinstance(weights, dict):
            weights = weights['checkpoint']
        assert weights is None or weights.startswith('https://'), name
        if weights or entry.weights_page:
            assert entry.licence, name


@pytest.mark.slow
@pytest.mark.parametrize('spatial_dims', [2, 3])
@pytest.mark.parametrize('name', OURS)
def test_every_network_of_ours_is_a_pyramid_of_its_rank(name, spatial_dims):
    """Built without memory, in both ranks, with the same names."""
    entry = find_encoder(name, spatial_dims=spatial_dims)
    with torch.device('meta'):
        backbone, _ = build_backbone(
            entry.backbone, in_channels=1, spatial_dims=spatial_dims
        )
    levels = backbone.pyramid_outputs
    if name in PLAIN:
        assert len({level.stride for level in levels.values()}) == 1
    else:
        first = 5 - len(levels)
        assert [level.stride for level in levels.values()] == [
            (2 ** (i + 1),) * spatial_dims for i in range(first, 5)
        ]
    assert _names(backbone) == _names(_build(name))


@functools.cache
def _build(name):
    with torch.device('meta'):
        return build_backbone(
            ENCODERS[name].backbone, in_channels=3, spatial_dims=2
        )[0]


def _names(backbone):
    added = tuple(getattr(backbone, 'added_keys', ()))
    names = (n for n, _ in backbone.named_parameters())
    return [n for n in names if not n.startswith(added)]


def test_measured_size():
    # torchvision's ResNet-50 has 25,557,032, of which 2,049,000 classify.
    parameters, levels = measure_encoder(ENCODERS['resnet50'])
    assert parameters == 25_557_032 - 2_049_000
    assert levels.channels == (64, 256, 512, 1024, 2048)


def test_unknown_and_unfit_names(monkeypatch):
    with pytest.raises(ValueError, match="did you mean 'resnext50'"):
        find_encoder('resnext5', spatial_dims=2)
    images = replace(ENCODERS['pvt_v2_b0'], spatial_dims=(2,))
    table = {**ENCODERS, 'pvt_v2_b0': images}
    monkeypatch.setattr(encoders, 'ENCODERS', table)
    with pytest.raises(ValueError, match=r"'pvt_v2_b0' takes .* only"):
        find_encoder('pvt_v2_b0', spatial_dims=3)


def test_configs_normalise_as_the_table_says():
    checked = 0
    for file in config_folder().glob('*.py'):
        model = load_config(file).model
        entry = ENCODERS.get(model.backbone.get('arch', ''))
        if entry is None or model.backbone.get('pretrained') is None:
            continue
        # Cases of volumes are normalised when they are prepared.
        if 'mean' not in model.data_preprocessor:
            continue
        checked += 1
        stated = model.data_preprocessor
        for found, expected in (
            (stated.mean, entry.mean),
            (stated.std, entry.std),
        ):
            assert found == pytest.approx(expected, abs=1e-6), file.name
    assert checked > 8


def test_table_of_a_terminal():
    table = encoder_table(list_encoders(family='xception'))
    assert '20.8 M' in table
    assert '32: 2048' in table


@pytest.mark.slow
def test_the_document_holds_the_table():
    text = (ROOT / 'docs' / 'backbones.md').read_text()
    assert text.endswith(f'\n{encoder_table(ENCODERS, markdown=True)}\n')


@pytest.mark.slow
def test_the_tool_names_a_wrong_family():
    done = subprocess.run(
        [sys.executable, 'tools/list_models.py', '--family', 'rsnet'],
        cwd=ROOT,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 1
    assert "no encoder family 'rsnet'" in done.stderr
