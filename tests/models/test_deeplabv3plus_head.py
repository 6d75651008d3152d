"""What the parity tests do not say of the head of DeepLabV3+."""

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from upernet_ext.models import DeepLabV3PlusHead

CHANNELS = [4, 6]
BN = dict(type='BN')
both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])


def _maps(spatial_dims: int, fine: int = 8, deep: int = 4) -> list[Tensor]:
    return [
        torch.randn(2, c, *[s] * spatial_dims)
        for c, s in zip(CHANNELS, (fine, deep), strict=True)
    ]


def _head(spatial_dims: int = 2, **kwargs) -> DeepLabV3PlusHead:
    kwargs = {
        **dict(num_classes=2, c1_channels=3, norm_cfg=BN, dropout_ratio=0),
        **kwargs,
    }
    return DeepLabV3PlusHead(CHANNELS, 5, spatial_dims=spatial_dims, **kwargs)


# --- rates ------------------------------------------------------------------


@both_ranks
@torch.no_grad()
def test_adaptive_rates_are_the_fixed_ones_on_large_maps(
    spatial_dims: int,
) -> None:
    heads = [
        _head(spatial_dims, dilations=(1, 2, 4), rates=rates).eval()
        for rates in ('adaptive', 'fixed')
    ]
    heads[1].load_state_dict(heads[0].state_dict())
    large = _maps(spatial_dims, deep=5)
    assert torch.equal(heads[0](large), heads[1](large))
    small = _maps(spatial_dims, deep=4)
    assert (heads[0](small) - heads[1](small)).abs().max() > 1e-6


@both_ranks
@torch.no_grad()
def test_default_rates_see_their_neighbours_on_tiny_maps(
    spatial_dims: int,
) -> None:
    """On 3 pixels an axis a dilation of 12 or more sees padding only."""
    x = torch.rand(1, CHANNELS[1], *[3] * spatial_dims)
    centre = (..., *[1] * spatial_dims)
    for rates, sees in (('adaptive', True), ('fixed', False)):
        head = _head(spatial_dims, rates=rates)
        for branch in list(head.aspp_modules)[1:]:
            conv = branch.depthwise_conv.conv
            conv.weight.fill_(1)
            conv.weight[centre] = 0
            assert bool(conv(x).any()) == sees


# --- levels -----------------------------------------------------------------

FIVE = [(2, 2), (4, 4), (8, 8), (16, 16), (32, 32)]
FOUR = FIVE[1:]
PATCH14 = [(3.5,) * 2, (7,) * 2, (14,) * 2, (28,) * 2]
# Slices of a volume further apart than its pixels.
FLAT = [(1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16)]
DILATED = [(4, 4), (8, 8), (8, 8), (8, 8)]
LEVELS = [
    (FIVE, {}, [1, 4]),
    (FIVE, dict(encoder_depth=5), [1, 4]),
    (FIVE, dict(encoder_depth=4), [1, 3]),
    (FIVE, dict(encoder_depth=3), [1, 2]),
    (FIVE, dict(encoder_depth=3, low_level='P1'), [0, 2]),
    (FOUR, {}, [0, 3]),
    (FOUR, dict(encoder_depth=4, low_level='P2'), [1, 3]),
    (FOUR, dict(encoder_depth=3), [0, 2]),
    (PATCH14, {}, [0, 3]),
    (FLAT, {}, [1, 3]),
    (DILATED, {}, [0, 3]),
]


@pytest.mark.parametrize(('strides', 'options', 'wanted'), LEVELS)
def test_levels(strides: list, options: dict, wanted: list[int]) -> None:
    assert DeepLabV3PlusHead.select_levels(strides, **options) == wanted


@pytest.mark.parametrize(
    ('strides', 'options', 'message'),
    [
        (FOUR, dict(encoder_depth=5), 'between 3 and the 4 levels'),
        (FIVE, dict(encoder_depth=2), 'encoder_depth=2 must lie'),
        (FIVE, dict(encoder_depth=3, low_level='P3'), r"\['P1', 'P2'\]"),
        (FIVE, dict(low_level='stride8'), "got 'stride8'"),
        ([(16, 16)] * 4, {}, 'at strides .*name one'),
    ],
)
def test_levels_that_are_not_there(
    strides: list, options: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        DeepLabV3PlusHead.select_levels(strides, **options)


# --- function ---------------------------------------------------------------


@both_ranks
@torch.no_grad()
def test_flow_of_medicai_written_out(spatial_dims: int) -> None:
    head = _head(
        spatial_dims, flow='medicai', rates='fixed', dilations=(1, 2)
    ).eval()
    for value in head.state_dict().values():
        if value.ndim == 1:  # a norm between would be seen, and a bias
            value.uniform_(0.5, 2)
    fine, deep = _maps(spatial_dims)
    convolve = {2: F.conv2d, 3: F.conv3d}[spatial_dims]
    mode = {2: 'bilinear', 3: 'trilinear'}[spatial_dims]

    def separable(x: Tensor, module: torch.nn.Module, rate: int) -> Tensor:
        """Nothing stands between the two convolutions."""
        weight = module.depthwise_conv.conv.weight
        x = convolve(
            x, weight, padding=rate, dilation=rate, groups=len(weight)
        )
        return module.pointwise_conv(x)

    pooled = head.image_pool[1](
        deep.flatten(2).mean(2)[..., *[None] * (spatial_dims)]
    )
    branches = [
        pooled.expand(-1, -1, *deep.shape[2:]),
        head.aspp_modules[0](deep),
        separable(deep, head.aspp_modules[1], 2),
    ]
    x = torch.cat(branches, 1)
    assert head.bottleneck.conv.kernel_size == (1,) * spatial_dims
    x = separable(head.bottleneck(x), head.sep_bottleneck[0], 1)
    x = F.interpolate(x, fine.shape[2:], mode=mode)
    x = torch.cat([x, head.c1_bottleneck(fine)], 1)
    x = separable(x, head.sep_bottleneck[1], 1)
    torch.testing.assert_close(head([fine, deep]), head.conv_seg(x))


@both_ranks
@pytest.mark.parametrize(
    ('kind', 'norm'),
    [
        ('BN', 'BatchNorm'),
        ('SyncBN', 'BatchNorm'),
        ('IN', 'InstanceNorm'),
        ('GN', 'GroupNorm'),
    ],
)
def test_one_pixel_trains_at_batch_one(
    spatial_dims: int, kind: str, norm: str
) -> None:
    """The pooled branch has one value a channel; every norm is the asked."""
    head = _head(spatial_dims, norm_cfg=dict(type=kind))
    modules = [m for m in head.modules() if isinstance(m, ConvModule)]
    assert all(type(m.norm).__name__.startswith(norm) for m in modules)
    maps = [torch.randn(1, c, *[1] * spatial_dims) for c in CHANNELS]
    head(maps).sum().backward()
    assert all(m.conv.weight.grad is not None for m in modules)


def test_dropout_behind_the_pyramid_takes_single_values() -> None:
    class Two(torch.nn.Module):
        def forward(self, maps: list[Tensor], size: tuple) -> Tensor:
            return torch.full_like(maps[-1], 2)

    head = _head(aspp_dropout=0.5)
    head.bottleneck = Two()
    out = head._pool(torch.ones(1, CHANNELS[1], 20, 20))
    assert set(out.unique().tolist()) == {0, 4}
    kept = (out.flatten(2) > 0).float().mean(2)
    assert kept.min() > 0.3
    assert kept.max() < 0.7
    assert head.eval()._pool(torch.ones(1, CHANNELS[1], 20, 20)).min() == 2


@both_ranks
def test_classifier_is_initialised_normally(spatial_dims: int) -> None:
    head = DeepLabV3PlusHead(
        CHANNELS, 500, num_classes=20, spatial_dims=spatial_dims
    )
    head.init_weights()
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(dilations=(12, 24, 36)), r'such as \(1, 12, 24, 36\), got'),
        (dict(dilations=(1,)), r'got \(1,\)'),
        (dict(dilations=(1, 6, 1)), r'got \(1, 6, 1\)'),
        (dict(rates='learned'), "'adaptive' or 'fixed', got 'learned'"),
        (dict(flow='paper'), "'mmseg' or 'medicai', got 'paper'"),
        (dict(in_index=(0, 1, 2)), r'in_index=\(0, 1, 2\)'),
        (dict(in_index=3), 'takes two levels.*in_index=3'),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _head(**arguments)


def test_wrong_channels_are_named() -> None:
    with pytest.raises(ValueError, match=r'in_channels=\[4, 6\].*\[6, 4\]'):
        _head()(_maps(2)[::-1])
