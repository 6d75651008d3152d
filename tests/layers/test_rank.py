import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from upernet_ext.layers import rank

both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])


@pytest.mark.parametrize('spatial_dims', [1, 4, '2'])
def test_other_ranks_are_refused(spatial_dims: object) -> None:
    with pytest.raises(ValueError, match=r'must be 2 .* or 3'):
        rank.conv_cfg(spatial_dims)


@settings(deadline=None, max_examples=30)
@given(
    size=st.lists(st.integers(1, 9), min_size=2, max_size=3),
    new=st.data(),
)
def test_resize_of_a_constant_is_the_constant(
    size: list, new: st.DataObject
) -> None:
    n = len(size)
    target = new.draw(st.lists(st.integers(1, 12), min_size=n, max_size=n))
    x = torch.full((1, 2, *size), 3.5)
    for out in (rank.resize(x, target), rank.resize_smooth(x, target)):
        assert out.shape == (1, 2, *target)
        torch.testing.assert_close(out, torch.full_like(out, 3.5))
    assert rank.resize(x, size) is x


@settings(deadline=None, max_examples=30)
@given(
    size=st.lists(st.integers(1, 12), min_size=2, max_size=3),
    divisor=st.integers(1, 6),
)
def test_padding_keeps_the_image_and_reaches_the_multiple(
    size: list, divisor: int
) -> None:
    x = torch.randn(1, 1, *size)
    out = rank.pad_to_multiple(x, [divisor] * len(size))
    box = tuple(slice(s) for s in size)
    assert torch.equal(out[(..., *box)], x)
    for old, new in zip(size, out.shape[2:], strict=True):
        assert new % divisor == 0
        assert 0 <= new - old < divisor


@both_ranks
def test_conv_module_keeps_the_size_whatever_the_dilation(
    spatial_dims: int,
) -> None:
    x = torch.randn(1, 2, *[7] * spatial_dims)
    for kernel, dilation in [(1, 1), (3, 1), (3, 2), (5, 3)]:
        module = rank.conv_module(
            2, 3, kernel, spatial_dims=spatial_dims, dilation=dilation
        )
        assert module(x).shape == (1, 3, *x.shape[2:])
        assert module.conv.weight.shape == (3, 2, *[kernel] * spatial_dims)


@settings(deadline=None, max_examples=30)
@given(
    size=st.lists(st.integers(1, 12), min_size=2, max_size=3),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
)
def test_same_padding_gives_every_stride_one_pixel(
    size: list, kernel: int, stride: int
) -> None:
    net = rank.conv(
        1,
        1,
        kernel,
        spatial_dims=len(size),
        stride=stride,
        padding='same',
        bias=False,
    )
    out = net(torch.ones(1, 1, *size))
    assert list(out.shape[2:]) == [-(-s // stride) for s in size]
    # TensorFlow's rule along one axis: half the pad, rounded down, before.
    with torch.no_grad():
        net.weight.zero_()
        net.weight.view(-1)[0] = 1  # looks at the near corner of its window
    x = torch.randn(1, 1, *size)
    starts = [
        -(max((-(-s // stride) - 1) * stride + kernel - s, 0) // 2)
        for s in size
    ]
    corner = x[0, 0]
    for start in starts:
        corner = corner[0] if start == 0 else torch.zeros_like(corner[0])
    torch.testing.assert_close(net(x).flatten()[0], corner)


@pytest.mark.parametrize('size', [(1, 3), (3, 1), (1, 1), (5, 4)])
def test_average_pooling_of_one_voxel_an_axis(size):
    """A volume of two equal slices, or one, is pooled like the slice."""
    image = torch.randn(2, 3, *size)
    expected = rank.avg_pool(2, 2, ceil_mode=True)(image)
    pool = rank.avg_pool(3, 2, ceil_mode=True)
    for depth in (1, 2):
        volume = image[:, :, None].expand(-1, -1, depth, -1, -1)
        torch.testing.assert_close(pool(volume)[:, :, 0], expected)
