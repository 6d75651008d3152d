"""mmseg's and mmpretrain's plain ViTs, by renamed weights."""

import warnings

import mmseg.models
import pytest
import torch
from torch import Tensor, nn

from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.interop.styles import STYLES
from upernet_ext.models import VisionTransformer

SMALL = dict(embed_dims=24, num_layers=2, num_heads=3)
COMMON = dict(img_size=64, patch_size=16, out_indices=(0, 1))
STYLE = {style.name: style for style in STYLES['vit']}
BEIT = dict(pos_embed=False, rel_pos_bias='block', init_values=0.1)
# Type: (its arguments, ours, style)
MMSEG = {
    'VisionTransformer': (dict(final_norm=False), {}, 'mmseg.vit'),
    'BEiT': (dict(init_values=0.1), dict(BEIT, qkv_bias='qv'), 'mmseg.beit'),
    'MAE': (
        dict(init_values=0.1),
        dict(BEIT, pos_embed=True, qkv_bias=True),
        'mmseg.beit',
    ),
}
IMAGE = torch.randn(2, 3, 64, 64)


def randomise(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.eval()
    return model


def mmseg_model(kind: str, **kwargs) -> nn.Module:
    options, _, _ = MMSEG[kind]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of its own position table
        model = getattr(mmseg.models, kind)(
            **SMALL, **COMMON, **options, **kwargs
        )
    return randomise(model)


@pytest.mark.parametrize('kind', MMSEG)
@torch.no_grad()
def test_equals_mmseg(kind: str) -> None:
    theirs = mmseg_model(kind)
    _, options, style = MMSEG[kind]
    # mmcv's LayerNorm has torch's eps by default.
    ours = VisionTransformer(SMALL, **COMMON, norm_eps=1e-6, **options).eval()
    if kind == 'VisionTransformer':
        for module in theirs.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6
    receipt = load_backbone(ours, theirs.state_dict(), source=kind)
    assert receipt.style == style
    # The patch bias that mmseg's ViT lacks is set, and said so.
    lacks = kind == 'VisionTransformer'
    assert [(c.name, c.kind) for c in receipt.changes] == [
        ('patch_embed.proj.bias', 'set')
    ] * lacks
    for found, wanted in zip(ours(IMAGE), theirs(IMAGE), strict=True):
        assert (found - wanted).abs().max() <= 1e-5 * wanted.std()


@pytest.mark.parametrize('kind', MMSEG)
@torch.no_grad()
def test_export_fills_mmseg(kind: str) -> None:
    _, options, style = MMSEG[kind]
    ours = randomise(VisionTransformer(SMALL, **COMMON, **options))
    bias = dict(patch_bias=True) if kind == 'VisionTransformer' else {}
    theirs = mmseg_model(kind, **bias)
    missing, unexpected = theirs.load_state_dict(
        STYLE[style].to_style(ours.state_dict()), strict=False
    )
    assert not unexpected
    assert all('relative_position_index' in name for name in missing)
    for module in theirs.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    for found, wanted in zip(theirs(IMAGE), ours(IMAGE), strict=True):
        assert (found - wanted).abs().max() <= 1e-5 * wanted.std()


def _mmpretrain(kind: str) -> tuple[nn.Module, dict]:
    from mmpretrain import models

    arch = dict(SMALL, feedforward_channels=96)
    common = dict(img_size=64, patch_size=16, out_type='featmap')
    norm = dict(norm_cfg=dict(type='LN', eps=1e-6), final_norm=False)
    if kind == 'BEiTViT':
        theirs = models.BEiTViT(arch, **common, **norm, out_indices=(0, 1))
        return theirs, dict(BEIT, qkv_bias='qv')
    swiglu = kind == 'swiglu'
    theirs = models.VisionTransformer(
        arch,
        **common,
        **norm,
        out_indices=(0, 1),
        layer_scale_init_value=0.1,
        layer_cfgs=dict(ffn_type='swiglu_fused') if swiglu else {},
    )
    # Its SwiGLU takes two thirds of the hidden channels, in eights.
    own = dict(mlp='swiglu', mlp_ratio=64 / 24) if swiglu else {}
    return theirs, dict(own, init_values=0.1)


@pytest.mark.needs_torchvision
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('kind', ['gelu', 'swiglu', 'BEiTViT'])
@torch.no_grad()
def test_equals_mmpretrain(kind: str) -> None:
    theirs, options = _mmpretrain(kind)
    randomise(theirs)
    ours = VisionTransformer(SMALL, **COMMON, **options).eval()
    receipt = load_backbone(ours, theirs.state_dict(), source=kind)
    assert not receipt.changes
    for found, wanted in zip(ours(IMAGE), theirs(IMAGE), strict=True):
        assert (found - wanted).abs().max() <= 1e-5 * wanted.std()


@pytest.mark.needs_torchvision
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('kind', ['gelu', 'swiglu'])
@torch.no_grad()
def test_export_fills_mmpretrain(kind: str) -> None:
    theirs, options = _mmpretrain(kind)
    theirs.eval()
    ours = randomise(VisionTransformer(SMALL, **COMMON, **options))
    theirs.load_state_dict(STYLE['mmpretrain.vit'].to_style(ours.state_dict()))
    for found, wanted in zip(theirs(IMAGE), ours(IMAGE), strict=True):
        assert (found - wanted).abs().max() <= 1e-5 * wanted.std()


@torch.no_grad()
def test_final_norm_of_mmseg() -> None:
    """Which mmseg applies to the last level only."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        theirs = mmseg.models.VisionTransformer(
            **SMALL, **COMMON, final_norm=True, norm_cfg=dict(type='LN')
        )
    randomise(theirs)
    options = dict(final_norm=True, norm_eps=1e-5)
    ours = VisionTransformer(SMALL, **COMMON, **options).eval()
    load_backbone(ours, theirs.state_dict(), source='mmseg')
    found, wanted = ours(IMAGE)[-1], theirs(IMAGE)[-1]
    assert (found - wanted).abs().max() <= 1e-5 * wanted.std()
    other = VisionTransformer(SMALL, **COMMON, **options)
    away = STYLE['mmseg.vit'].to_style(ours.state_dict())
    assert set(theirs.state_dict()) <= set(away)
    load_backbone(other, away, source='back')
    assert torch.equal(other.norm.weight, ours.norm.weight)


def test_what_mmseg_has_no_place_for_is_refused() -> None:
    weights: dict[str, Tensor] = VisionTransformer(
        dict(SMALL, num_registers=4), **COMMON
    ).state_dict()
    for style in ('mmseg.vit', 'mmseg.beit', 'mmpretrain.vit'):
        with pytest.raises(ValueError, match='no place for reg_token'):
            STYLE[style].to_style(weights)
