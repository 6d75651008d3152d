"""ASPP equals mmsegmentation's, and its adaptive dilations fit every map."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmseg.models.decode_heads.aspp_head import ASPPModule
from mmseg.models.decode_heads.sep_aspp_head import (
    DepthwiseSeparableASPPModule,
)
from torch.nn import functional as F  # noqa: N812

from upernet_ext.layers import ASPP
from upernet_ext.layers.rank import conv_module, fitted_dilation

BN, RELU = dict(type='BN'), dict(type='ReLU')
dilations = st.integers(1, 40)


@pytest.mark.parametrize('separable', [False, True])
@torch.no_grad()
def test_branches_equal_mmseg(separable: bool) -> None:
    kind = DepthwiseSeparableASPPModule if separable else ASPPModule
    theirs = kind(
        dilations=(1, 2, 5),
        in_channels=6,
        channels=4,
        conv_cfg=None,
        norm_cfg=BN,
        act_cfg=RELU,
    ).eval()
    ours = ASPP(
        (1, 2, 5),
        6,
        4,
        spatial_dims=2,
        norm_cfg=BN,
        act_cfg=RELU,
        separable=separable,
    ).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 6, 7, 9)
    for mine, yours in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(mine, yours)


@given(dilations, st.integers(1, 100), dilations)
def test_a_fitted_dilation_finds_the_map(
    dilation: int, size: int, other: int
) -> None:
    largest = max(dilation, other)
    fitted = fitted_dilation(dilation, size, largest)
    assert 1 <= fitted <= dilation
    if largest < size:
        assert fitted == dilation
    elif size > 1:  # on a single pixel there is nothing else to see
        assert fitted < size
        assert fitted_dilation(largest, size, largest) == size - 1


@given(dilations, dilations, st.integers(1, 100))
def test_fitted_dilations_keep_their_order(a: int, b: int, size: int) -> None:
    low, high = sorted((a, b))
    fitted = [fitted_dilation(d, size, high) for d in (low, high)]
    assert fitted == sorted(fitted)


def test_dilations_shrink_together() -> None:
    """Stride 32 of 512 pixels: three different branches, not one thrice."""
    assert [fitted_dilation(d, 16, 36) for d in (12, 24, 36)] == [5, 10, 15]


@pytest.mark.parametrize(
    ('size', 'dilation'),
    [
        ((3, 20), (1, 4)),  # 2 of largest 8 on 3 pixels: half of one; 1
        ((5, 8), (2, 3)),
        ((20, 3, 5), (4, 1, 2)),
    ],
)
@pytest.mark.parametrize('kernel_size', [3, 5])
@torch.no_grad()
def test_each_axis_is_fitted_by_itself(
    size: tuple[int, ...], dilation: tuple[int, ...], kernel_size: int
) -> None:
    rank = len(size)
    convolve = {2: F.conv2d, 3: F.conv3d}[rank]
    conv = conv_module(
        2, 3, kernel_size, spatial_dims=rank, dilation=4, largest_dilation=8
    ).conv
    x = torch.randn(1, 2, *size)
    padding = [d * (kernel_size // 2) for d in dilation]
    wanted = convolve(
        x, conv.weight, conv.bias, padding=padding, dilation=dilation
    )
    assert wanted.shape[2:] == size
    torch.testing.assert_close(conv(x), wanted)
    assert conv.dilation == (4,) * rank
