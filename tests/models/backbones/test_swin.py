"""Swin and Swin V2 against mmseg, transformers and timm, in 2D and 3D."""

import re
from pathlib import Path

import mmseg
import pytest
import torch
import transformers
from mmseg.models import SwinTransformer as MMSwin
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from upernet_ext.interop import WeightsError
from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.interop.swin import STYLES, to_mmseg
from upernet_ext.models import SwinTransformer
from upernet_ext.models.backbones import build_backbone
from upernet_ext.models.backbones.layer_depth import layer_depth
from upernet_ext.models.backbones.swin_presets import (
    ARCHITECTURES,
    ENCODERS,
)

SIZES = dict(depths=(2, 2, 2, 1), embed_dims=8, num_heads=(1, 2, 2, 4))
# No stage's map is a multiple of the window, and stage 2 has an odd edge.
SIZE = (150, 214)
THICK = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])
both_versions = pytest.mark.parametrize('v2', [False, True])
TIMM = {
    'swin_tiny': 'swin_tiny_patch4_window7_224',
    'swin_small': 'swin_small_patch4_window7_224',
    'swin_base': 'swin_base_patch4_window12_384',
    'swin_large': 'swin_large_patch4_window12_384',
    'swin_v2_tiny': 'swinv2_tiny_window8_256',
    'swin_v2_small': 'swinv2_small_window8_256',
    'swin_v2_base': 'swinv2_base_window8_256',
    'swin_v2_large': 'swinv2_large_window12to16_192to256',
}


def _randomise(net: nn.Module) -> nn.Module:
    """Give every map the same spread, and every bias table one of 1."""
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            small = value.ndim < 2 or name.endswith('table')
            value.normal_(std=0.5 if small else value[0].numel() ** -0.5)
    net.eval()  # mmseg's returns None
    return net


def _small(**kwargs) -> SwinTransformer:
    return SwinTransformer(**{**SIZES, 'window_size': 4, **kwargs})


def _assert_close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= 1e-4 * wanted.std()


@torch.no_grad()
def test_every_level_is_mmsegs() -> None:
    theirs = _randomise(MMSwin(**SIZES, window_size=4))
    ours = _small().eval()
    receipt = load_backbone(ours, theirs.state_dict(), source='mmseg')
    assert receipt.style == 'mmseg'
    x = torch.randn(2, 3, *SIZE)
    for mine, yours in zip(ours(x), theirs(x), strict=True):
        _assert_close(mine, yours)


@both_versions
@torch.no_grad()
def test_every_level_is_transformers(v2: bool) -> None:
    name = 'Swinv2' if v2 else 'Swin'
    config = getattr(transformers, f'{name}Config')(
        embed_dim=8,
        depths=[2, 2, 2, 1],
        num_heads=[1, 2, 2, 4],
        window_size=4,
        image_size=256,
        out_indices=[1, 2, 3, 4],
        **(dict(pretrained_window_sizes=[3, 3, 3, 2]) if v2 else {}),
    )
    theirs = _randomise(getattr(transformers, f'{name}Backbone')(config))
    # Its backbone of V2 has no norms of the maps.
    ours = _small(v2=v2, output_norm=not v2).eval()
    if v2:
        for stage, edge in zip(ours.layers, (3, 3, 3, 2), strict=True):
            for block in stage.blocks:
                block.attn.unit = (edge, edge)
        # One head's factor is at its limit of 100.
        theirs.state_dict()[
            'encoder.layers.2.blocks.1.attention.self.logit_scale'
        ][0] = 6
    receipt = load_backbone(ours, theirs.state_dict(), source='transformers')
    assert receipt.style == 'transformers'
    x = torch.randn(2, 3, *SIZE)
    for mine, yours in zip(ours(x), theirs(x).feature_maps, strict=True):
        _assert_close(mine, yours)


@pytest.mark.needs_torchvision
@both_versions
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@torch.no_grad()
def test_every_level_is_timms(v2: bool) -> None:
    from timm import models

    cls = models.SwinTransformerV2 if v2 else models.SwinTransformer
    # timm pads behind the shift, so that only whole windows are the same.
    theirs = cls(
        img_size=(128, 192),
        embed_dim=8,
        depths=(2, 2, 2, 1),
        num_heads=(1, 2, 2, 4),
        window_size=4,
        num_classes=0,
    )
    _randomise(theirs)
    ours = _small(v2=v2, output_norm=False).eval()
    receipt = load_backbone(ours, theirs.state_dict(), source='timm')
    assert receipt.style == 'timm'
    x = torch.randn(1, 3, 128, 192)
    wanted = theirs.forward_intermediates(x, intermediates_only=True)
    for mine, yours in zip(ours(x), wanted, strict=True):
        _assert_close(mine, yours)


def _size(net: nn.Module) -> int:
    outside = re.compile(r'(norm\d?|head)\.')
    return sum(
        value.numel()
        for name, value in net.named_parameters()
        if not outside.match(name)
    )


@pytest.mark.needs_torchvision
@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_as_many_parameters_as_timms(arch: str, monkeypatch) -> None:
    import timm

    linspace = torch.linspace
    # timm computes rates while it is built.
    monkeypatch.setattr(
        torch, 'linspace', lambda *args: linspace(*args, device='cpu')
    )
    with torch.device('meta'):
        theirs = timm.create_model(TIMM[arch])
        ours = SwinTransformer(arch)
    assert _size(ours) == _size(theirs)
    sizes = ARCHITECTURES[arch]
    stage = next(iter(theirs.layers))
    assert stage.blocks[0].window_size == (sizes.window,) * 2
    if sizes.units:
        units = [
            layer.blocks[0].attn.pretrained_window_size[0]
            for layer in theirs.layers
        ]
        own = [layer.blocks[0].attn.unit for layer in ours.layers]
        assert own == [(unit, unit) for unit in units]


def test_addresses_are_those_of_the_libraries() -> None:
    recipes = Path(mmseg.__file__).parent / '.mim' / 'configs' / 'swin'
    text = ''.join(path.read_text() for path in recipes.glob('*.py'))
    for entry in ENCODERS.values():
        if entry.family == 'swin':
            assert entry.weights in text
        else:
            assert entry.weights.startswith(
                'https://huggingface.co/microsoft/swinv2-'
            )


@both_versions
@pytest.mark.parametrize(
    ('slices', 'window', 'halvings'),
    [
        # 11 tokens, which no window divides, are 6, 3 and 2 behind mergings.
        (44, (3, 4, 4), None),
        (13, (4, 4, 4), None),
        (13, (4, 4, 4), THICK),
        (1, (2, 4, 4), None),
    ],
)
@torch.no_grad()
def test_a_volume_of_equal_slices_gives_the_maps_of_one(
    v2: bool, slices: int, window: tuple, halvings: tuple | None
) -> None:
    flat = _randomise(_small(v2=v2))
    deep = _small(
        v2=v2, spatial_dims=3, window_size=window, halvings=halvings
    ).eval()
    receipt = load_backbone(deep, flat.state_dict(), source='2D')
    assert len(receipt.matched) == len(flat.state_dict())
    x = torch.randn(1, 3, 70, 102)
    volume = x[:, :, None].expand(-1, -1, slices, -1, -1)
    depths = []
    for mine, yours in zip(deep(volume), flat(x), strict=True):
        depths.append(mine.shape[2])
        _assert_close(mine, yours[:, :, None].expand_as(mine))
    strides = [stride[0] for stride in deep.out_strides]
    assert depths == [-(-slices // stride) for stride in strides]


def test_halvings_are_the_strides() -> None:
    deep = _small(spatial_dims=3, halvings=THICK)
    assert deep.out_strides == ((1, 4, 4), (2, 8, 8), (4, 16, 16), (4, 32, 32))
    assert deep.patch_embed.proj.kernel_size == (1, 4, 4)
    merged = [
        layer.downsample.norm.weight.numel() for layer in deep.layers[:3]
    ]
    assert merged == [8 * 8, 8 * 16, 4 * 32]


def test_the_spacing_of_the_voxels_gives_the_halvings() -> None:
    deep, _ = build_backbone(
        dict(SIZES, type='upernet_ext.SwinTransformer', window_size=4),
        in_channels=1,
        spatial_dims=3,
        spacing=(5, 1, 1),
    )
    with torch.no_grad():
        maps = deep.eval()(torch.randn(1, 1, 8, 64, 64))
    for level, stride in zip(maps, deep.out_strides, strict=True):
        sizes = zip((8, 64, 64), stride, strict=True)
        assert level.shape[2:] == tuple(n // s for n, s in sizes)
    assert deep.out_strides[0] == (1, 4, 4)


@both_versions
def test_what_becomes_of_weights_for_images(v2: bool) -> None:
    flat = _randomise(_small(v2=v2))
    deep = _small(v2=v2, spatial_dims=3, window_size=(3, 4, 4))
    receipt = load_backbone(deep, flat.state_dict(), source='2D')
    assert {change.kind for change in receipt.changes} == {'reshaped'}
    old, new = flat.state_dict(), deep.state_dict()
    name = 'layers.0.downsample.reduction.weight'
    assert torch.equal(new[name], torch.cat([old[name] / 2] * 2, 1))
    attention = 'layers.1.blocks.1.attn.'
    if v2:
        name = f'{attention}cpb_mlp.0.weight'
        assert not new[name][:, 0].any()
        assert torch.equal(new[name][:, 1:], old[name])
    else:
        name = f'{attention}relative_position_bias_table'
        depths = new[name].view(5, 49, 2)
        assert all(torch.equal(part, old[name]) for part in depths)


def test_a_table_is_resampled_to_another_window() -> None:
    flat = _randomise(_small())
    name = 'layers.0.blocks.0.attn.relative_position_bias_table'
    old = flat.state_dict()[name]
    # As the authors' load_pretrained.
    wanted = F.interpolate(
        old.T.view(1, 1, 7, 7), (11, 11), mode='bicubic', align_corners=False
    ).reshape(121, 1)
    for rank, tiles in ((2, 1), (3, 11)):
        net = _small(window_size=6, spatial_dims=rank)
        receipt = load_backbone(net, flat.state_dict(), source='2D')
        (change,) = [c for c in receipt.changes if c.name == name]
        assert change.kind == 'resized'
        found = net.state_dict()[name]
        torch.testing.assert_close(found, wanted.repeat(tiles, 1))


def test_a_volume_is_no_image() -> None:
    deep = _small(spatial_dims=3)
    again = _small(spatial_dims=3)
    assert not load_backbone(again, deep.state_dict(), source='3D').changes
    other = _small(spatial_dims=3, window_size=(2, 4, 4))
    # 343 distances of a cube are no 147, and trilinear makes them so.
    receipt = load_backbone(other, deep.state_dict(), source='3D')
    assert {change.kind for change in receipt.changes} == {'resized'}
    with pytest.raises(WeightsError, match=r'downsample\.reduction\.weight'):
        load_backbone(_small(), deep.state_dict(), source='3D')
    with pytest.raises(ValueError, match='for images only'):
        to_mmseg(deep.state_dict())


@both_ranks
@both_versions
def test_checkpointing_changes_no_gradient(spatial_dims, v2) -> None:
    nets = [
        _small(
            v2=v2,
            in_channels=1,
            spatial_dims=spatial_dims,
            gradient_checkpointing=on,
        )
        for on in (False, True)
    ]
    _randomise(nets[0])
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(1, 1, 20, 40, 24)[(slice(None),) * (spatial_dims + 2)]
    if spatial_dims == 2:
        x = x[:, :, 0]
    for net in nets:
        net.train()
        sum(m.square().mean() for m in net(x)).backward()
    first, second = (dict(net.named_parameters()) for net in nets)
    for name, parameter in first.items():
        torch.testing.assert_close(parameter.grad, second[name].grad)
        # One token sees itself only, and a shift behind the softmax of one
        # key is nothing.
        if 'layers.3' not in name and 'layers.2' not in name:
            assert parameter.grad.any(), name


@torch.no_grad()
def test_stages_behind_the_last_level_are_not_built() -> None:
    whole = _randomise(_small())
    part = _small(out_indices=(0, 2)).eval()
    assert part.out_channels == (8, 32)
    assert part.out_strides == ((4, 4), (16, 16))
    receipt = load_backbone(part, whole.state_dict(), source='whole')
    assert 'layers.2.downsample.norm.weight' in receipt.unused
    x = torch.randn(1, 3, 64, 96)
    maps = whole(x)
    for mine, yours in zip(part(x), (maps[0], maps[2]), strict=True):
        assert torch.equal(mine, yours)


@pytest.mark.parametrize('style', STYLES['swin'], ids=lambda s: s.name)
def test_one_stage_of_any_file(style) -> None:
    whole = _randomise(_small())
    one = _small(out_indices=(0,))
    file = style.to_style(whole.state_dict())
    load_backbone(one, file, source='one')
    for name, value in one.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_depth_counts_as_that_of_mmsegs() -> None:
    ours = _small()
    theirs = MMSwin(**SIZES, window_size=4)
    for name, _ in ours.named_parameters():
        known = {name: ours.state_dict()[name]}
        renamed = next(iter(to_mmseg(known)))
        wanted = layer_depth(theirs, renamed)
        assert ours.get_layer_depth(name) == wanted, name


def test_drop_path_rises_linearly() -> None:
    net = _small(drop_path_rate=0.3)
    rates = [
        getattr(block.drop_path, 'drop_prob', 0.0)
        for stage in net.layers
        for block in stage.blocks
    ]
    assert rates == pytest.approx([0.05 * i for i in range(7)])


@both_versions
def test_initialisation(v2: bool) -> None:
    net = _small(v2=v2, embed_dims=32)
    net.init_weights()
    for name, value in net.named_parameters():
        if re.search(r'blocks\.\d\.norm', name) and v2:
            assert not value.any(), name
        elif 'norm' in name and name.endswith('weight'):
            assert (value == 1).all(), name
        elif name.endswith('bias') and name != 'patch_embed.proj.bias':
            assert not value.any(), name
        elif value.ndim == 2 and value.numel() > 3000:
            assert value.std().item() == pytest.approx(0.02, rel=0.1), name


def test_the_window_of_a_volume() -> None:
    with torch.device('meta'):
        net = SwinTransformer('swin_base', spatial_dims=3)
        tiny = SwinTransformer(
            'swin_tiny', spatial_dims=3, window_size=(4, 7, 7)
        )
    table = 'relative_position_bias_table'
    found = getattr(net.layers[0].blocks[0].attn, table)
    assert len(found) == 15 * 23 * 23
    assert tiny.layers[0].window == (4, 7, 7)
    levels = tiny.pyramid_outputs
    assert [level.channels for level in levels.values()] == [96, 192, 384, 768]
    assert levels['P4'].stride == (32, 32, 32)


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="no arch 'swin_tini'"):
        SwinTransformer('swin_tini')
    with pytest.raises(ValueError, match='give either arch or them'):
        SwinTransformer('swin_tiny', v2=True)
    with pytest.raises(ValueError, match='of one length'):
        _small(num_heads=(1, 1))
    with pytest.raises(ValueError, match=r'out_indices=\(0, 4\)'):
        _small(out_indices=(0, 4))
    with pytest.raises(ValueError, match='window_size='):
        _small(window_size=(4, 4, 4))
    with pytest.raises(ValueError, match='five times 3 ones and twos'):
        _small(spatial_dims=3, halvings=[(2, 2, 2)] * 4)
