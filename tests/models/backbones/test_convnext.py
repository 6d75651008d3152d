"""ConvNeXt and V2 against timm, in 2D and 3D."""

import pytest
import torch
from torch import nn

from upernet_ext.interop.convnext import to_transformers
from upernet_ext.models import ConvNeXt, TransformersBackbone

DEPTHS, DIMS = (1, 2, 3, 1), (8, 12, 16, 24)
both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])
both_versions = pytest.mark.parametrize('v2', [False, True])


def _small(**kwargs) -> ConvNeXt:
    return ConvNeXt(depths=DEPTHS, projection_dims=DIMS, **kwargs)


def _randomise(net: nn.Module) -> nn.Module:
    for value in net.state_dict().values():
        fan = value[0].numel() if value.ndim > 1 else 4
        value.normal_(std=fan**-0.5)
    return net.eval()


@pytest.mark.needs_torchvision
@both_versions
@torch.no_grad()
def test_every_level_is_timms(v2: bool) -> None:
    from timm.models import convnext

    version = dict(use_grn=True, ls_init_value=None) if v2 else {}
    theirs = _randomise(convnext.ConvNeXt(depths=DEPTHS, dims=DIMS, **version))
    ours = _small(v2=v2).eval()
    ours.load_state_dict(
        {k: theirs.state_dict()[k] for k in ours.state_dict()}
    )
    x = torch.randn(2, 3, 70, 100)
    wanted = theirs.forward_intermediates(x, intermediates_only=True)
    for mine, yours in zip(ours(x), wanted, strict=True):
        torch.testing.assert_close(mine, yours)


@pytest.mark.needs_torchvision
@torch.no_grad()
def test_the_mlp_of_the_smallest_is_convolutions_as_timms() -> None:
    import timm

    theirs = _randomise(timm.create_model('convnextv2_atto', num_classes=0))
    ours = ConvNeXt('convnext_v2_atto').eval()
    ours.load_state_dict(
        {k: theirs.state_dict()[k] for k in ours.state_dict()}
    )
    x = torch.randn(1, 3, 64, 96)
    wanted = theirs.forward_intermediates(x, intermediates_only=True)
    for mine, yours in zip(ours(x), wanted, strict=True):
        # The layer norm runs pixel by pixel here, over a view there.
        torch.testing.assert_close(mine, yours, rtol=1e-5, atol=2e-5)


def test_the_pyramid_of_a_custom_network() -> None:
    with torch.device('meta'):
        net = ConvNeXt(
            depths=[3, 3, 9, 3], projection_dims=[96, 192, 384, 768]
        )
        tiny = ConvNeXt('convnext_tiny')
    assert net.state_dict().keys() == tiny.state_dict().keys()
    levels = net.pyramid_outputs
    assert list(levels) == ['P1', 'P2', 'P3', 'P4']
    assert [level.channels for level in levels.values()] == [96, 192, 384, 768]
    strides = [level.stride for level in levels.values()]
    assert strides == [(4, 4), (8, 8), (16, 16), (32, 32)]


@both_versions
@torch.no_grad()
def test_a_volume_of_equal_slices_gives_the_maps_of_one(v2: bool) -> None:
    flat = _randomise(_small(v2=v2, output_norm=True))
    deep = _small(v2=v2, output_norm=True, spatial_dims=3).eval()
    weights = flat.state_dict()
    for name, value in deep.state_dict().items():
        if value.ndim == 5:
            # Only one slice of each kernel has weights: the middle one.
            value.zero_()
            middle = (value.shape[2] - 1) // 2
            value[:, :, middle] = weights[name]
        else:
            value.copy_(weights[name])
    x = torch.randn(1, 3, 64, 96)
    volume = x[:, :, None].expand(-1, -1, 32, -1, -1)
    for mine, yours in zip(deep(volume), flat(x), strict=True):
        depth = mine.shape[2]
        wanted = yours[:, :, None].expand(-1, -1, depth, -1, -1)
        # The norm of the responses is over more pixels: other rounding.
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


@both_ranks
@both_versions
def test_checkpointing_changes_no_gradient(
    spatial_dims: int, v2: bool
) -> None:
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
    x = torch.randn(1, 1, *[32] * spatial_dims)
    for net in nets:
        net.train()
        sum(m.square().mean() for m in net(x)).backward()
    first, second = (dict(net.named_parameters()) for net in nets)
    for name, parameter in first.items():
        assert parameter.grad.any(), name
        torch.testing.assert_close(parameter.grad, second[name].grad)


@torch.no_grad()
def test_stages_behind_the_last_level_are_not_built() -> None:
    whole = _randomise(_small())
    part = _small(out_indices=(0, 2)).eval()
    assert part.out_channels == (8, 16)
    assert part.out_strides == ((4, 4), (16, 16))
    own = part.state_dict()
    left = [k for k in whole.state_dict() if k not in own]
    assert left
    assert all(k.startswith(part.unused_pretrained_keys) for k in left)
    part.load_state_dict({k: whole.state_dict()[k] for k in own})
    x = torch.randn(1, 3, 64, 64)
    maps = whole(x)
    for mine, yours in zip(part(x), (maps[0], maps[2]), strict=True):
        assert torch.equal(mine, yours)


@torch.no_grad()
def test_output_norms_make_every_pixel_centred() -> None:
    net = _small(output_norm=True).eval()
    for level in net(torch.randn(1, 3, 64, 64)):
        means = level.mean(1)
        torch.testing.assert_close(
            means, torch.zeros_like(means), rtol=0, atol=1e-5
        )
    norms = {k.split('.')[0] for k in net.state_dict()} - {'stem', 'stages'}
    assert norms == {'norm0', 'norm1', 'norm2', 'norm3'}


def test_depth_counts_as_that_of_transformers() -> None:
    ours = _small(output_norm=True)
    theirs = TransformersBackbone(
        'convnext', dict(depths=list(DEPTHS), hidden_sizes=list(DIMS))
    )
    for name, value in ours.state_dict().items():
        (renamed,) = to_transformers({name: value})
        wanted = theirs.get_layer_depth(f'model.{renamed}')
        assert ours.get_layer_depth(name) == wanted, name
    with torch.device('meta'):
        base = ConvNeXt('convnext_base')
    assert base.get_layer_depth('stages.3.blocks.0.gamma') == (4, 14)


def test_drop_path_rises_linearly() -> None:
    net = _small(drop_path_rate=0.3)
    rates = [
        getattr(block.drop_path, 'drop_prob', 0.0)
        for stage in net.stages
        for block in stage.blocks
    ]
    assert rates == pytest.approx([0.05 * i for i in range(7)])


def test_initialisation() -> None:
    net = ConvNeXt(depths=[1] * 4, projection_dims=[64] * 4)
    net.init_weights()
    for name, value in net.named_parameters():
        if name.endswith('.bias'):
            assert not value.any(), name
        elif value.numel() > 5000:
            assert value.std().item() == pytest.approx(0.02, rel=0.05), name
        elif name.endswith('gamma'):
            assert (value == 1e-6).all()


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="no arch 'convnext_tini'"):
        ConvNeXt('convnext_tini')
    with pytest.raises(ValueError, match='give either arch or them'):
        ConvNeXt('convnext_tiny', depths=[1, 1, 1, 1])
    with pytest.raises(ValueError, match='of one length'):
        ConvNeXt(depths=[1, 1, 1, 1], projection_dims=[8])
    with pytest.raises(ValueError, match=r'out_indices=\(0, 4\)'):
        _small(out_indices=(0, 4))
