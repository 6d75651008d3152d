import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn import build_norm_layer
from torch import nn

from upernet_ext.layers import rank

both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])


def _norm(kind: str, spatial_dims: int, channels: int = 6) -> nn.Module:
    cfg = rank.norm_cfg(dict(type=kind), spatial_dims)
    layer = build_norm_layer(cfg, channels)[1]
    for name, value in layer.state_dict().items():
        if value.is_floating_point():
            value.normal_()
        if name == 'running_var':
            value.uniform_(0.5, 2)
    return layer


@both_ranks
@pytest.mark.parametrize('kind', ['BN', 'IN', 'GN', 'SyncBN'])
def test_norms_are_torchs_wherever_torch_works(
    kind: str, spatial_dims: int
) -> None:
    ours = _norm(kind, spatial_dims)
    classes = {
        'BN': [nn.BatchNorm2d, nn.BatchNorm3d],
        'SyncBN': [nn.BatchNorm2d, nn.BatchNorm3d],
        'IN': [nn.InstanceNorm2d, nn.InstanceNorm3d],
    }
    if kind == 'GN':
        theirs = nn.GroupNorm(2, 6)  # gcd(32, 6)
    else:
        theirs = classes[kind][spatial_dims - 2](6)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, *[3] * spatial_dims)
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        assert torch.equal(ours(x), theirs(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@both_ranks
def test_single_value_batch_norm_uses_running_statistics(
    spatial_dims: int,
) -> None:
    norm = _norm('BN', spatial_dims)
    x = torch.randn(1, 6, *[1] * spatial_dims, requires_grad=True)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    expected = norm.eval()(x)
    found = norm.train()(x)
    assert torch.equal(found, expected)
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])
    found.sum().backward()
    assert x.grad.abs().min() > 0


@both_ranks
@pytest.mark.parametrize('kind', ['IN', 'GN'])
def test_single_value_is_the_identity(kind: str, spatial_dims: int) -> None:
    norm = _norm(kind, spatial_dims, channels=32)
    x = torch.randn(1, 32, *[1] * spatial_dims)
    assert torch.equal(norm(x), x)


@pytest.mark.parametrize(
    ('kind', 'spatial_dims'), [('BN3d', 2), ('BN2d', 3), ('IN2d', 3)]
)
def test_norm_of_another_rank_is_refused(kind: str, spatial_dims: int) -> None:
    with pytest.raises(ValueError, match=f'{kind}.*fits every rank'):
        rank.norm_cfg(dict(type=kind), spatial_dims)


def test_norm_config_is_copied_and_passed_on() -> None:
    cfg = dict(type='BN', momentum=0.2, requires_grad=False)
    assert rank.norm_cfg(cfg, 3) == dict(
        type='upernet_ext.BatchNorm3d', momentum=0.2, requires_grad=False
    )
    assert cfg['type'] == 'BN'
    assert rank.norm_cfg(None, 2) is None
    assert rank.norm_cfg(dict(type='LN2d'), 2) == dict(type='LN2d')


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match='cannot split 6 channels'):
        rank.GroupNorm(6, 4)


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
