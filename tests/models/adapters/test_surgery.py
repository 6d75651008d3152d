"""2D layers that become layers of volumes, and those that do not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from upernet_ext.models.adapters import ACSConv, to_volumes
from upernet_ext.models.backbones import build_backbone
from upernet_ext.models.backbones.volume_table import NETWORKS, adapters_of


def _plane(
    x: torch.Tensor, layer: nn.Conv2d, part: slice, axis: int
) -> torch.Tensor:
    """Convolve all planes across one axis, one by one."""
    planes = x.unbind(axis)
    done = [
        F.conv2d(
            p,
            layer.weight[part],
            layer.bias[part],
            layer.stride,
            layer.padding,
            layer.dilation,
        )
        for p in planes[:: layer.stride[0]]
    ]
    return torch.stack(done, axis)


@pytest.mark.parametrize('kernel', [1, 3, 5])
@pytest.mark.parametrize('stride', [1, 2])
def test_acs_is_a_third_in_each_plane(kernel, stride):
    """As figure 2 of the paper, written plane by plane."""
    layer = ACSConv(4, 7, kernel, stride=stride, padding=kernel // 2)
    x = torch.randn(2, 4, 6, 7, 9)
    thirds = (slice(0, 3), slice(3, 5), slice(5, 7))
    expected = [_plane(x, layer, p, 2 + i) for i, p in enumerate(thirds)]
    torch.testing.assert_close(
        layer(x), torch.cat(expected, 1), rtol=1e-5, atol=1e-5
    )


def test_acs_of_patches_averages_across_the_plane():
    layer = ACSConv(3, 6, 4, stride=4)
    x = torch.randn(1, 3, 8, 8, 12)
    parts = []
    for i in range(3):
        part = slice(2 * i, 2 * i + 2)
        done = [
            F.conv2d(p, layer.weight[part], layer.bias[part], 4)
            for p in x.unbind(2 + i)
        ]
        whole = torch.stack(done, 2 + i).unflatten(2 + i, (-1, 4))
        parts.append(whole.mean(3 + i))
    torch.testing.assert_close(
        layer(x), torch.cat(parts, 1), rtol=1e-5, atol=1e-5
    )


CNNS = [
    name
    for name, cfg in NETWORKS.items()
    if 'acs' in adapters_of(cfg) and 'TensorFlow' not in name
]


@pytest.mark.parametrize('name', CNNS)
def test_acs_keeps_the_2d_parameters(name):
    """And sees the order of the slices, as no stack of 2D networks does."""
    volume, _ = build_backbone(
        {**NETWORKS[name], 'adapter': 'acs'}, in_channels=3, spatial_dims=3
    )
    plane, _ = build_backbone(NETWORKS[name], in_channels=3, spatial_dims=2)
    shapes = {n: v.shape for n, v in plane.state_dict().items()}
    assert {n: v.shape for n, v in volume.state_dict().items()} == shapes
    volume.load_state_dict(plane.state_dict())
    volume.eval()
    x = torch.randn(1, 3, 33, 33, 33)
    maps = volume(x)
    assert volume.out_strides[-1] == volume.out_strides[-1][:1] * 3
    for found, stride in zip(maps, volume.out_strides, strict=True):
        assert len(set(found.shape[2:])) == 1
        assert abs(33 / stride[0] - found.shape[2]) < 4
    assert (maps[0] - volume(x.flip(2))[0].flip(2)).abs().max() > 1e-3
    maps[-1].sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all()
        for n, p in volume.named_parameters()
        if n.startswith(('conv1', 'stem', 'features.conv0', 'conv_stem'))
    )


def test_padding_of_its_own_is_refused_by_name():
    cfg = {**NETWORKS['EfficientNet, TensorFlow padding'], 'adapter': 'acs'}
    with pytest.raises(ValueError, match=r'rank\._SameConv2d \(conv_stem\)'):
        build_backbone(cfg, in_channels=1, spatial_dims=3)


class _SamePaddedConv2d(nn.Conv2d):
    pass


class _Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.conv = nn.Conv2d(1, 1, 3)


@pytest.mark.parametrize('adapter', ['inflate', 'acs'])
@pytest.mark.parametrize(
    ('layer', 'message'),
    [
        (_SamePaddedConv2d(1, 1, 3), r'_SamePaddedConv2d \(0\)'),
        (_Scaled(), r'_Scaled \(0\)'),
        (nn.PixelShuffle(2), r'PixelShuffle \(0\)'),
        (nn.AdaptiveMaxPool2d(1), r'AdaptiveMaxPool2d \(0\)'),
        (nn.Conv2d(1, 1, (1, 3)), 'only square kernels of odd size'),
        (nn.Conv2d(1, 1, 4, stride=2), 'only square kernels of odd size'),
        (nn.Conv2d(1, 1, 3, padding_mode='circular'), 'with zeros around'),
        (nn.AvgPool2d(3, 1, 1), 'would dim the first and the last slice'),
        (nn.AdaptiveAvgPool2d(7), 'does not pool to a single value'),
    ],
)
def test_other_layers_are_refused_by_name(layer, message, adapter):
    network = nn.Sequential(layer, nn.ReLU())
    before = [type(m) for m in network.modules()]
    with pytest.raises(ValueError, match=message):
        to_volumes(network, adapter)
    assert [type(m) for m in network.modules()] == before


def test_weights_of_a_built_network_come_along():
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.MaxPool2d(2)
    )
    nn.init.normal_(network[1].running_mean)
    network.eval()
    x = torch.randn(1, 2, 8, 8)
    expected = network(x)
    found = to_volumes(network, 'inflate').eval()(
        x.unsqueeze(2).repeat(1, 1, 4, 1, 1)
    )
    torch.testing.assert_close(found, expected.unsqueeze(2).expand_as(found))
