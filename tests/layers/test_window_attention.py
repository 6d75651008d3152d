"""Attention in windows against dense attention with a mask."""

import math

import pytest
import torch
from torch import Tensor

from upernet_ext.layers.window_attention import (
    CosineWindowAttention,
    WindowAttention,
    Windows,
    pad_grid,
)

GRIDS = {
    'whole windows': ((8, 12), (4, 4)),
    'padded': ((9, 6), (4, 4)),
    'one axis in a window': ((3, 10), (4, 4)),
    'all in a window': ((3, 2), (4, 5)),
    'volume': ((4, 6, 8), (2, 3, 4)),
    'padded volume': ((5, 7, 6), (3, 4, 4)),
    # The padding reaches into the last window but one.
    'far padded volume': ((9, 4, 5), (8, 4, 4)),
    'thin volume': ((1, 9, 6), (8, 4, 4)),
}
grids = pytest.mark.parametrize(
    ('grid', 'window'), GRIDS.values(), ids=list(GRIDS)
)
shifts = pytest.mark.parametrize('shifted', [False, True])
both_kinds = pytest.mark.parametrize(
    'kind', [WindowAttention, CosineWindowAttention]
)


def _randomised(kind: type, window: tuple[int, ...]) -> WindowAttention:
    attention = kind(8, 2, window=window)
    for value in attention.state_dict().values():
        value.normal_(std=0.5)
    return attention


def _dense(
    attention: WindowAttention, x: Tensor, shifted: bool
) -> tuple[Tensor, Tensor]:
    """Attend over the whole grid, and mask what is in another window.

    Shifted windows are those of a grid that starts earlier: what is before
    the first whole one is a smaller one.
    """
    window, grid = attention.window, x.shape[1:-1]
    fits = [n <= w for n, w in zip(grid, window, strict=True)]
    pads = [
        0 if fit else -n % w
        for n, w, fit in zip(grid, window, fits, strict=True)
    ]
    flat = [n for pad in reversed(pads) for n in (0, pad)]
    x = torch.nn.functional.pad(x, (0, 0, *flat))
    axes = [torch.arange(n) for n in x.shape[1:-1]]
    places = torch.stack(torch.meshgrid(*axes, indexing='ij'), -1)
    places = places.flatten(0, -2)
    moved = [
        w // 2 if shifted and not f else 0
        for w, f in zip(window, fits, strict=True)
    ]
    cells = (places - torch.tensor(moved)).div(
        torch.tensor(window), rounding_mode='floor'
    )
    cells[:, torch.tensor(fits)] = 0
    visible = (cells[:, None] == cells).all(-1)
    if len(grid) == 3:
        visible &= places[:, 0] < grid[0]
    distance = places[:, None] - places
    row = torch.zeros_like(distance[..., 0])
    for axis, edge in enumerate(window):
        step = distance[..., axis].clamp(1 - edge, edge - 1) + edge - 1
        row = row * (2 * edge - 1) + step
    bias = attention._table()[row].permute(2, 0, 1)
    qkv = attention._project(x.flatten(1, -2))
    q, k, v = qkv.unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    q, k, scale = attention._similarity(q, k)
    scores = q @ k.mT * (0.5 if scale is None else scale) + bias
    scores = scores.masked_fill(~visible, -math.inf)
    y = (scores.softmax(-1).nan_to_num() @ v).transpose(1, 2).flatten(2)
    y = attention.proj(y).unflatten(1, x.shape[1:-1])
    return y[(slice(None), *(slice(n) for n in grid))]


@grids
@shifts
@both_kinds
@torch.no_grad()
def test_windows_are_a_mask(grid, window, shifted, kind) -> None:
    attention = _randomised(kind, window)
    x = torch.randn(2, *grid, 8)
    found = attention(x, Windows(grid, window, shifted=shifted))
    wanted = _dense(attention, x, shifted)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@grids
@shifts
def test_join_undoes_split(grid, window, shifted) -> None:
    windows = Windows(grid, window, shifted=shifted)
    x = torch.randn(2, *grid, 3)
    parts = windows.split(x)
    assert parts.shape[2] == math.prod(windows.size)
    assert torch.equal(windows.join(parts), x)


@grids
@shifts
def test_every_window_is_in_one_group(grid, window, shifted) -> None:
    windows = Windows(grid, window, shifted=shifted)
    count = math.prod(windows.counts)
    numbers = torch.cat([torch.arange(count)[g] for g, _ in windows.groups])
    assert sorted(numbers.tolist()) == list(range(count))
    masked = [visible for _, visible in windows.groups if visible is not None]
    # No row without a key: its softmax would be nan.
    assert all(visible.any(-1).all() for visible in masked)
    if not shifted and len(grid) == 2:
        assert not masked


@both_kinds
def test_every_parameter_is_used(kind) -> None:
    attention = _randomised(kind, (2, 3, 3))
    windows = Windows((3, 7, 6), (2, 3, 3), shifted=True)
    attention(torch.randn(1, 3, 7, 6, 8), windows).square().sum().backward()
    for name, parameter in attention.named_parameters():
        assert parameter.grad.any(), name


def test_bfloat16_of_autocast_is_near() -> None:
    attention = _randomised(CosineWindowAttention, (4, 4))
    windows = Windows((9, 6), (4, 4), shifted=True)
    x = torch.randn(1, 9, 6, 8)
    with torch.autocast('cpu', torch.bfloat16):
        found = attention(x, windows)
    # bfloat16 has 8 bits.
    torch.testing.assert_close(
        found.float(), attention(x, windows), rtol=0.05, atol=0.1
    )


def test_the_depth_is_padded_by_its_last_slice() -> None:
    x = torch.randn(1, 3, 3, 2, 2)
    padded = pad_grid(x, (2, 2, 2))
    assert padded.shape == (1, 4, 4, 2, 2)
    assert torch.equal(padded[:, 3], padded[:, 2])
    assert torch.equal(padded[:, :3, :3], x)
    assert not padded[:, :, 3].any()
