"""Swin and Swin V2 of four libraries: recognised, renamed, and back."""

import re

import pytest
import torch
import transformers
from mmseg.models import SwinTransformer as MMSwin
from torch import Tensor

from upernet_ext.interop import WeightsError
from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.interop.swin import STYLES
from upernet_ext.models import SwinTransformer

SIZES = dict(depths=(1, 2, 1, 1), embed_dims=8, num_heads=(1, 1, 2, 2))
STYLE = {style.name: style for style in STYLES['swin']}
both_versions = pytest.mark.parametrize('v2', [False, True])


def _ours(v2: bool, **kwargs) -> SwinTransformer:
    net = SwinTransformer(**SIZES, window_size=4, v2=v2, **kwargs)
    for value in net.state_dict().values():
        value.normal_()
    return net


def _check(theirs: dict[str, Tensor], style: str, v2: bool, **kwargs) -> None:
    """Name ours as theirs, which has these names, and read it back."""
    ours, again = _ours(v2, **kwargs), _ours(v2, **kwargs)
    named = STYLE[style].to_style(ours.state_dict())
    assert {k: v.shape for k, v in named.items()} == {
        k: v.shape for k, v in theirs.items()
    }
    found = [s.name for s in STYLES['swin'] if s.recognises(named)]
    assert found == [style]
    receipt = load_backbone(again, named, source='file')
    assert receipt.style == style
    assert all(
        name.endswith('relative_position_index') for name in receipt.unused
    )
    for name, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_mmseg() -> None:
    _check(MMSwin(**SIZES, window_size=4).state_dict(), 'mmseg', v2=False)
    with pytest.raises(ValueError, match='this one is Swin V2'):
        STYLE['mmseg'].to_style(_ours(v2=True).state_dict())


@both_versions
def test_transformers(v2: bool) -> None:
    name = 'Swinv2' if v2 else 'Swin'
    config = getattr(transformers, f'{name}Config')(
        embed_dim=8,
        depths=[1, 2, 1, 1],
        num_heads=[1, 1, 2, 2],
        window_size=4,
        out_indices=[1, 2, 3, 4],
    )
    net = getattr(transformers, f'{name}Backbone')(config)
    # The classifier's norm, which a backbone holds and does not apply.
    theirs = {
        k: v
        for k, v in net.state_dict().items()
        if not re.search(r'(^|\.)layernorm\.', k)
    }
    _check(theirs, 'transformers', v2, output_norm=not v2)


@pytest.mark.needs_torchvision
@both_versions
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_timm(v2: bool) -> None:
    from timm import models

    cls = models.SwinTransformerV2 if v2 else models.SwinTransformer
    net = cls(
        img_size=128,
        embed_dim=8,
        depths=(1, 2, 1, 1),
        num_heads=(1, 1, 2, 2),
        window_size=4,
    )
    theirs = {
        k: v
        for k, v in net.state_dict().items()
        if not k.startswith(('norm.', 'head.'))
    }
    _check(theirs, 'timm', v2, output_norm=False)


@pytest.mark.needs_torchvision
@both_versions
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_official_names_are_those_that_timm_reads(v2: bool) -> None:
    from timm.models import swin_transformer, swin_transformer_v2

    module = swin_transformer_v2 if v2 else swin_transformer
    cls = module.SwinTransformerV2 if v2 else module.SwinTransformer
    net = cls(
        img_size=128,
        embed_dim=8,
        depths=(1, 2, 1, 1),
        num_heads=(1, 1, 2, 2),
        window_size=4,
        num_classes=0,
    )
    ours = _ours(v2, output_norm=False)
    read = module.checkpoint_filter_fn(dict(ours.state_dict()), net)
    # It moves the mergings as from_timm undoes.
    again = STYLE['timm'].from_style({**read, 'head.fc.bias': torch.ones(2)})
    assert set(again) == {*ours.state_dict(), 'head.bias'}
    for name, value in ours.state_dict().items():
        assert torch.equal(again[name], value), name


@both_versions
def test_what_the_authors_store_beside_the_weights_is_unused(v2) -> None:
    ours = _ours(v2)
    file = dict(ours.state_dict(), **{'norm.weight': torch.ones(64)})
    file['head.weight'] = torch.ones(5, 64)
    block = 'layers.1.blocks.1.'
    for name in ('attn_mask', 'attn.relative_position_index'):
        file[block + name] = torch.ones(2)
    receipt = load_backbone(_ours(v2), file, source='file')
    assert set(receipt.unused) == set(file) - set(ours.state_dict())
    file[f'{block}attn.relative_position'] = torch.ones(2)
    with pytest.raises(
        WeightsError, match=r'lacks: .*attn\.relative_position[.;]'
    ):
        load_backbone(_ours(v2), file, source='file')


@pytest.mark.parametrize('prefix', ['model.', 'module.backbone.', 'encoder.'])
@pytest.mark.parametrize('style', STYLE)
def test_wrappers_are_unpacked(style: str, prefix: str) -> None:
    ours, again = _ours(v2=False), _ours(v2=False)
    named = STYLE[style].to_style(ours.state_dict())
    file = {prefix + name: value for name, value in named.items()}
    load_backbone(again, file, source='file')
    for name, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_renamed_tensor_is_named() -> None:
    for style in STYLE.values():
        file = style.to_style(_ours(v2=False).state_dict())
        victim = next(k for k in file if 'blocks.1' in k and 'proj' in k)
        file[f'{victim}_'] = file.pop(victim)
        with pytest.raises(WeightsError, match=f'{victim}_'):
            load_backbone(_ours(v2=False), file, source='file')
