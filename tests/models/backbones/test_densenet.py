"""DenseNet against timm in 2D and MONAI in 3D."""

import pytest
import torch
from monai.networks.nets import DenseNet as MonaiDenseNet
from torch import nn

from upernet_ext.interop.densenet import from_monai
from upernet_ext.models import DenseNet

SMALL = dict(block_layers=(2, 3, 2, 1), growth=4)
# The modules whose outputs are the levels, by torchvision's names.
ENDS = ('relu0', 'denseblock1', 'denseblock2', 'denseblock3', 'norm5')


def _randomise(net: nn.Module) -> nn.Module:
    for name, value in net.state_dict().items():
        if 'running_var' in name:
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            fan = value[0].numel() if value.ndim > 1 else 4
            value.normal_(std=fan**-0.5)
    return net.eval()


def _levels(net: nn.Module, x: torch.Tensor, ends: tuple) -> list:
    maps = []
    for name, module in net.features.named_children():
        x = module(x)
        if name in ends:
            maps.append(x.clone())
    return maps


@pytest.mark.needs_torchvision
@torch.no_grad()
def test_every_level_is_timms() -> None:
    from timm.models import densenet

    theirs = densenet.DenseNet(growth_rate=4, block_config=(2, 3, 2, 1))
    _randomise(theirs)
    ours = DenseNet(**SMALL).eval()
    ours.load_state_dict(
        {k: theirs.state_dict()[k] for k in ours.state_dict()}
    )
    x = torch.randn(2, 3, 70, 100)
    # timm's norms hold the ReLU.
    wanted = _levels(theirs, x, ('norm0', *ENDS[1:]))
    for mine, yours in zip(ours(x), wanted, strict=True):
        torch.testing.assert_close(mine, yours)


@torch.no_grad()
def test_every_level_is_monais_in_3d() -> None:
    theirs = MonaiDenseNet(
        3, 2, 1, init_features=8, growth_rate=4, block_config=(2, 3, 2, 1)
    )
    _randomise(theirs)
    ours = DenseNet(**SMALL, in_channels=2, spatial_dims=3).eval()
    weights = from_monai(theirs.state_dict())
    ours.load_state_dict({k: weights[k] for k in ours.state_dict()})
    x = torch.randn(1, 2, 32, 40, 48)
    wanted = _levels(theirs, x, ENDS)
    wanted[-1] = wanted[-1].relu()
    for mine, yours in zip(ours(x), wanted, strict=True):
        torch.testing.assert_close(mine, yours)
    assert [m.shape[1] for m in wanted] == list(ours.out_channels)
    assert [s[0] for s in ours.out_strides] == [2, 4, 8, 16, 32]


@pytest.mark.parametrize('spatial_dims', [2, 3])
def test_checkpointing_changes_no_gradient(spatial_dims: int) -> None:
    more = dict(in_channels=1, norm_cfg=dict(type='GN'))
    nets = [
        DenseNet(
            **SMALL,
            **more,
            spatial_dims=spatial_dims,
            gradient_checkpointing=on,
        )
        for on in (False, True)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    # Two pixels at the last level: of one a group norm is the identity.
    x = torch.randn(1, 1, 64, *[32] * (spatial_dims - 1))
    for net in nets:
        sum(m.square().mean() for m in net.train()(x)).backward()
    first, second = (dict(net.named_parameters()) for net in nets)
    for name, parameter in first.items():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, second[name].grad)


@torch.no_grad()
def test_blocks_behind_the_last_level_are_not_built() -> None:
    whole = _randomise(DenseNet(**SMALL))
    part = DenseNet(**SMALL, out_indices=(0, 2)).eval()
    own, weights = part.state_dict(), whole.state_dict()
    left = [k for k in weights if k not in own]
    assert {k.split('.')[1] for k in left} == {
        *('transition2', 'transition3', 'denseblock3', 'denseblock4', 'norm5')
    }
    assert all(k.startswith(part.unused_pretrained_keys) for k in left)
    part.load_state_dict({k: weights[k] for k in own})
    x = torch.randn(1, 3, 64, 64)
    maps = whole(x)
    for mine, yours in zip(part(x), (maps[0], maps[2]), strict=True):
        assert torch.equal(mine, yours)


def test_depth_is_a_layer_a_block() -> None:
    net = DenseNet(**SMALL)
    names = ('conv0', 'denseblock2', 'transition2', 'norm5')
    depths = [net.get_layer_depth(f'features.{n}.x.weight') for n in names]
    assert depths == [(0, 6), (2, 6), (2, 6), (4, 6)]


def test_initialisation() -> None:
    net = DenseNet(block_layers=(1, 1, 1, 1), growth=32)
    net.init_weights()
    weight = net.features.denseblock1.denselayer1.conv2.weight
    wanted = (2 / weight[0].numel()) ** 0.5
    assert weight.std().item() == pytest.approx(wanted, rel=0.05)


def test_wrong_arch_is_named() -> None:
    with pytest.raises(ValueError, match="no arch 'densenet12'"):
        DenseNet('densenet12')
