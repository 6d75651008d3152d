"""Whose names a file has is found out, or said to be unknown."""

import pytest
import torch
from mmengine.model import BaseModule
from mmseg.models import SwinTransformer
from torch import nn

from upernet_ext.interop import WeightsError, load_pretrained
from upernet_ext.interop.key_style import KeyStyle
from upernet_ext.interop.styles import STYLES, apply_style, recognise
from upernet_ext.models.backbones import build_backbone

SIZES = dict(
    embed_dims=8, depths=(1, 2, 1, 1), num_heads=(1, 1, 2, 2), window_size=4
)
NAMES = {style.name: style for style in STYLES['mmseg.SwinTransformer']}


def _swin() -> BaseModule:
    net, _ = build_backbone(
        dict(SIZES, type='mmseg.SwinTransformer'),
        in_channels=3,
        spatial_dims=2,
    )
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.normal_()
    return net


def _same(a: nn.Module, b: nn.Module) -> bool:
    values = b.state_dict()
    return all(torch.equal(v, values[k]) for k, v in a.state_dict().items())


@pytest.mark.parametrize('prefix', ['', 'model.', 'module.backbone.'])
@pytest.mark.parametrize('style', NAMES)
def test_swin_of_any_style_is_read_back(tmp_path, style, prefix) -> None:
    published, net = _swin(), _swin()
    weights = NAMES[style].to_style(published.state_dict())
    weights = {prefix + k: v for k, v in weights.items()}
    if 'backbone' in prefix:
        weights['module.decode_head.x'] = torch.zeros(1)
    torch.save(weights, tmp_path / 'a.pth')
    receipt = load_pretrained(net, str(tmp_path / 'a.pth'))
    assert _same(published, net)
    assert receipt.style == ('' if style == 'mmseg' else style)
    assert receipt.unused == (
        ('module.decode_head.x',) if 'backbone' in prefix else ()
    )
    if style == 'transformers':
        name = 'stages.0.blocks.0.attn.w_msa.qkv.weight'
        sources = {k for k, v in receipt.renamed.items() if v == name}
        assert sources == {
            f'{prefix}swin.encoder.layers.0.blocks.0.attention.{p}_proj.weight'
            for p in 'qkv'
        }


def _damage(weights: dict, how: str) -> str:
    name = next(k for k in weights if k.endswith('norm2.weight'))
    value = weights.pop(name)
    if how == 'renamed':
        weights[name.replace('norm2', 'nrom2')] = value
    elif how == 'shape':
        weights[name] = torch.zeros(5)
    else:
        weights[name] = value
        for old in list(weights):
            weights[f'wrong.{old}'] = weights.pop(old)
    return name


@pytest.mark.parametrize(
    ('how', 'message'),
    [
        ('renamed', r'norm2\.weight \(the file has .*nrom2\.weight\)'),
        ('shape', r'norm2\.weight \(\(5,\) in the file, \(8,\) here\)'),
        ('prefix', r'lacks: wrong\..* all begin with wrong\.'),
    ],
)
@pytest.mark.parametrize('style', ['mmseg', 'official', 'timm'])
def test_what_does_not_fit_is_named(tmp_path, style, how, message) -> None:
    weights = NAMES[style].to_style(_swin().state_dict())
    _damage(weights, how)
    torch.save(weights, tmp_path / 'a.pth')
    net = _swin()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(WeightsError, match=message):
        load_pretrained(net, str(tmp_path / 'a.pth'))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_missing_third_of_qkv_is_named(tmp_path) -> None:
    weights = NAMES['transformers'].to_style(_swin().state_dict())
    del weights['swin.encoder.layers.1.blocks.1.attention.k_proj.bias']
    torch.save(weights, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match=r'layers\.1\.blocks\.1\.attn\.k\.'):
        load_pretrained(_swin(), str(tmp_path / 'a.pth'))


def test_unknown_names_list_the_styles_that_were_tried(tmp_path) -> None:
    torch.save({'a.weight': torch.zeros(1)}, tmp_path / 'a.pth')
    with pytest.raises(
        WeightsError, match='the model, mmseg, official, timm, transformers'
    ):
        load_pretrained(_swin(), str(tmp_path / 'a.pth'))


def _style(name: str, first: str) -> KeyStyle:
    return KeyStyle(
        name,
        lambda names: 'a' in names,
        lambda state_dict: {
            'x': state_dict[first],
            'y': state_dict['b' if first == 'a' else 'a'],
        },
    )


def test_two_styles_that_disagree_are_an_error_and_the_same_are_none() -> None:
    weights = {'a': torch.zeros(1), 'b': torch.ones(1)}
    one, other = _style('one', 'a'), _style('other', 'b')
    with pytest.raises(WeightsError, match='names of one or of other; say'):
        recognise(weights, ['x', 'y'], (one, other), source='f')
    twin = KeyStyle('twin', one.recognises, one.from_style)
    assert recognise(weights, ['x', 'y'], (one, twin), source='f').style == (
        'one'
    )


def test_renaming_follows_tensors_through_joins_and_splits() -> None:
    style = KeyStyle(
        's',
        lambda names: True,
        lambda d: {
            'qk': torch.cat([d['q'], d['k']]),
            'low': d['both'][:1],
            'high': d['both'][1:].t().contiguous(),
            'same': d['same'],
        },
    )
    weights = {n: torch.rand(2, 2) for n in ('q', 'k', 'both', 'same')}
    reading = apply_style(style, weights, source='f', prefix='p.')
    assert reading.renamed == {
        'p.q': 'qk',
        'p.k': 'qk',
        'p.both': 'low + high',
        'p.same': 'same',
    }
    assert all(type(v) is torch.Tensor for v in reading.state_dict.values())


def test_a_key_map_may_name_a_style(tmp_path) -> None:
    published = _swin()
    weights = NAMES['official'].to_style(published.state_dict())
    torch.save(weights, tmp_path / 'a.pth')
    net = _swin()
    path = str(tmp_path / 'a.pth')
    load_pretrained(net, dict(checkpoint=path, key_map='official'))
    assert _same(published, net)
    with pytest.raises(WeightsError, match='missing from it'):
        load_pretrained(net, dict(checkpoint=path, key_map='timm'))


@pytest.mark.parametrize('channels', [1, 2, 4, 7])
def test_other_input_channels_keep_the_response(tmp_path, channels) -> None:
    published = _swin()
    torch.save(published.state_dict(), tmp_path / 'a.pth')
    net = SwinTransformer(**SIZES, in_channels=channels)
    receipt = load_pretrained(net, str(tmp_path / 'a.pth'))
    (change,) = receipt.changes
    assert (change.name, change.kind) == (
        'patch_embed.projection.weight',
        'reshaped',
    )
    assert change.new == (8, channels, 4, 4)
    grey = torch.randn(1, 1, 32, 32)
    old = published.patch_embed.projection
    new = net.patch_embed.projection
    assert torch.equal(new.bias, old.bias)
    wanted = old(grey.expand(-1, 3, -1, -1))
    if channels == 1:
        torch.testing.assert_close(new(grey), wanted, rtol=1e-5, atol=1e-5)
    kernels = new.weight / (3 / channels) if channels > 1 else None
    for i in range(channels if kernels is not None else 0):
        torch.testing.assert_close(kernels[:, i], old.weight[:, i % 3])


def test_no_other_layer_is_cut_to_size(tmp_path) -> None:
    weights = _swin().state_dict()
    name = 'patch_embed.projection.weight'
    weights[name] = torch.zeros(8, 5, 4, 4)
    torch.save(weights, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match=r'\(8, 5, 4, 4\) in the file'):
        load_pretrained(_swin(), str(tmp_path / 'a.pth'))
