"""Weights go to the library's own model; what does not fit is named."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from upernet_ext.interop import WeightsError, load_pretrained
from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.interop.styles import STYLES
from upernet_ext.interop.vit_transformers import from_vit
from upernet_ext.models.backbones.vit_presets import PRESETS

from .conftest import (
    IMAGE,
    SMALL,
    TOLERANCE,
    ours_for,
    randomise,
    timm_pair,
    transformers_model,
)

# ---- there and back -------------------------------------------------------

# Style -> presets whose models the library has.
BACK = {
    'transformers.vit': ('augreg-b', 'mae-b'),
    'transformers.dinov2': ('dinov2-b', 'dinov2-g', 'dinov2-reg-g'),
    'transformers.dinov3': ('dinov3-b', 'dinov3-h+', 'dinov3-7b'),
    'transformers.beit': ('beit-b',),
    'timm': (
        *('mae-b', 'dinov2-g', 'dinov3-b', 'dinov3-h+', 'dinov3-7b'),
        *('beit-b', 'eva02-b'),
    ),
    'mmseg.vit': ('augreg-b', 'mae-b'),
    'mmseg.beit': ('beit-b',),
    'mmpretrain.vit': ('augreg-b', 'dinov2-b', 'dinov2-g'),
}
STYLE = {style.name: style for style in STYLES['vit']}


@pytest.mark.parametrize(
    ('style', 'preset'),
    [(s, p) for s in BACK if s.startswith('transformers') for p in BACK[s]],
)
def test_export_fills_the_library_s_own_model(style: str, preset: str) -> None:
    assert_fills(transformers_model(preset, **SMALL), style, preset)


@pytest.mark.needs_torchvision
@pytest.mark.parametrize('preset', [*BACK['timm'], 'dinov2-reg-b'])
def test_export_fills_timms_own_model(preset: str) -> None:
    _, theirs, _ = timm_pair(preset)
    assert_fills(theirs, 'timm', preset, img_size=IMAGE)


def assert_fills(
    theirs: nn.Module, style: str, preset: str, **overrides: Any
) -> None:
    ours = randomise(ours_for(preset, **overrides))
    away = STYLE[style].to_style(ours.state_dict())
    missing, unexpected = theirs.load_state_dict(away, strict=False)
    assert not unexpected
    without_norm = PRESETS[preset].get('final_norm') is None
    allowed = r'layernorm\.|pooler\.|(fc_)?norm\.' if without_norm else r'(?!)'
    assert not [name for name in missing if not re.match(allowed, name)]


@pytest.mark.needs_torchvision
@torch.no_grad()
def test_registers_of_timm() -> None:
    """There the class token has taken its position in: equal up to a sum."""
    ours, theirs, levels = timm_pair('dinov2-reg-b')
    randomise(ours)
    theirs.load_state_dict(STYLE['timm'].to_style(ours.state_dict()))
    back = ours_for('dinov2-reg-b', img_size=IMAGE)
    file = theirs.state_dict()
    # the door cannot guess a grid that is not square
    file['pos_embed'] = torch.cat(
        [torch.zeros_like(file['cls_token']), file['pos_embed']], 1
    )
    load_backbone(back, file, source='timm')
    image = torch.randn(2, 3, *IMAGE)
    for wanted, *found in zip(
        levels(image), ours(image), back(image), strict=True
    ):
        for level in found:
            assert (level - wanted).abs().max() <= TOLERANCE * wanted.std()


@pytest.mark.parametrize(
    'preset', ['dinov2-g', 'dinov3-h+', 'mae-b', 'augreg-b', 'beit-b']
)
def test_a_file_that_transformers_wrote_loads(
    preset: str, tmp_path: Path
) -> None:
    """``save_pretrained`` writes the names of version 4."""
    theirs = randomise(transformers_model(preset, **SMALL))
    theirs.save_pretrained(tmp_path)
    path = tmp_path / 'model.safetensors'
    written = set(load_file(path))
    assert preset == 'dinov3-h+' or written.isdisjoint(
        n for n in theirs.state_dict() if '.attention.' in n
    )
    ours = ours_for(preset)
    load_pretrained(ours, str(path))
    wanted = from_vit(theirs.state_dict())
    for name, value in ours.state_dict().items():
        assert torch.equal(value, wanted[name]), name


# ---- what does not fit fails, and names it --------------------------------

FAMILIES = ('dinov2-g', 'dinov2-reg-b', 'dinov3-b', 'dinov3-h+', 'mae-b')
FAMILIES += ('augreg-b', 'beit-b')


@pytest.fixture(params=FAMILIES)
def file(request: pytest.FixtureRequest) -> tuple[str, Mapping[str, Tensor]]:
    model = transformers_model(request.param, **SMALL)
    return request.param, model.state_dict()


def _names(state_dict: Mapping[str, Tensor]) -> list[str]:
    """One of each kind of tensor that a file has."""
    kinds = {re.sub(r'\d+', '#', name): name for name in state_dict}
    unused = ('pooler', 'mask_token', 'layernorm.')
    return [n for n in kinds.values() if not any(u in n for u in unused)]


def test_one_renamed_key_fails_and_is_named(file: tuple) -> None:
    preset, state_dict = file
    for name in _names(state_dict):
        changed = dict(state_dict)
        changed[f'{name}x'] = changed.pop(name)
        with pytest.raises(WeightsError, match=re.escape(f'{name}x')):
            load_backbone(ours_for(preset), changed, source='file')


def test_one_other_shape_fails_and_is_named(file: tuple) -> None:
    preset, state_dict = file
    for name in _names(state_dict):
        value = state_dict[name]
        changed = {**state_dict, name: value.new_zeros(2, *value.shape)}
        with pytest.raises(WeightsError) as error:
            load_backbone(ours_for(preset), changed, source='file')
        (here,) = from_vit({name: value})
        assert name in str(error.value) or f'{here} (' in str(error.value)


def test_a_wrong_prefix_fails_and_is_named(file: tuple) -> None:
    preset, state_dict = file
    changed = {f'wrong.{name}': value for name, value in state_dict.items()}
    with pytest.raises(WeightsError, match=r'wrong\.embeddings'):
        load_backbone(ours_for(preset), changed, source='file')
