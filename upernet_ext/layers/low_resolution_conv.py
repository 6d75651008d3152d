"""The convolution of a resized map, at the resolution of the map.

A linear resize ``U`` and a convolution are both linear, and ``U`` acts on each
channel by itself, so they change places: with ``W_t`` the matrix of tap ``t``,

    conv(U x)[p] = sum over taps t of (U (W_t x))[p + t].

All ``W_t x`` are one matrix product at low resolution. Resize, shift and sum
over the taps are separable: one matrix product an axis. What it saves is
counted in ``docs/performance.md``.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn import grad as gradients

from .linear_resize import resize_matrix


@lru_cache(maxsize=256)
def _tap_matrix(
    low: int,
    high: int,
    taps: int,
    dilation: int,
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return the resize of one axis, shifted to each tap, side by side.

    Rows are zero where a tap lies in the padding. The result is shared: do
    not write into it.

    Args:
        low: Pixels of the axis.
        high: Pixels after the resize.
        taps: Odd width of the kernel.
        dilation: Distance between taps, in pixels after the resize.
        align_corners: Of the resize.
        dtype: Of the matrix.
        device: Of the matrix.

    Returns:
        ``(high, taps * low)``, all pixels of the first tap first.
    """
    reach = taps // 2 * dilation
    # Not under inference_mode, whose tensors no backward pass may save.
    with torch.inference_mode(mode=False), torch.no_grad():
        matrix = resize_matrix(low, high, align_corners, torch.float64)
        padded = F.pad(matrix, (0, 0, reach, reach))
        shifted = [padded[t * dilation :][:high] for t in range(taps)]
        return torch.cat(shifted, dim=1).to(dtype).to(device)


@torch.library.custom_op('upernet_ext::tap_matrix', mutates_args=())
def _tap_matrix_operator(
    low: int,
    high: int,
    taps: int,
    dilation: int,
    align_corners: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    # What an operator returns belongs to the graph, which may write into it.
    return _tap_matrix(
        low, high, taps, dilation, align_corners, dtype, device
    ).clone()


@_tap_matrix_operator.register_fake
def _(low, high, taps, dilation, align_corners, dtype, device) -> Tensor:
    return torch.empty(high, taps * low, dtype=dtype, device=device)


def tap_matrix(*args) -> Tensor:
    """See ``_tap_matrix``; torch.compile sees an operator, not a cache."""
    if torch.compiler.is_compiling():
        return _tap_matrix_operator(*args)
    return _tap_matrix(*args)


def product(matrix: Tensor, x: Tensor) -> Tensor:
    """``matrix @ x`` for ``(M, K)`` and ``(B, K, N)``."""
    if x.dtype != torch.float32:
        return torch.matmul(matrix, x)
    # As a convolution: it obeys the same precision switch as the plain form
    # (TF32). On one thread torch leaves an undilated one to MKL, which is
    # half as fast on AMD; the dilation of a single tap means nothing.
    return F.conv1d(x, matrix[:, :, None], dilation=2)


def product_last(x: Tensor, matrix: Tensor) -> Tensor:
    """``x @ matrix`` for ``(A, B, K)`` and ``(K, N)``."""
    if x.dtype != torch.float32:
        return torch.matmul(x, matrix)
    channels_last = x.permute(2, 0, 1)[None]
    kernel = matrix.T[:, :, None, None]
    ones, none = [1, 1], [0, 0]
    out = torch.convolution(
        channels_last, kernel, None, ones, none, [2, 2], False, none, 1
    )
    return out[0].permute(1, 2, 0)


def rows_of(kernel: Tensor) -> Tensor:
    """Order ``(c, C, k_1, ..., k_r)`` as ``(k_r ... k_2 c k_1, C)``.

    The taps of the first axis are next to its pixels in the product with a
    map, and those of the others outermost, where they are free to move.
    """
    rank = kernel.ndim - 2
    order = (*range(rank + 1, 2, -1), 0, 2, 1)
    return kernel.permute(order).reshape(-1, kernel.shape[1])


def kernel_of(rows: Tensor, channels: int, taps: Sequence[int]) -> Tensor:
    """Undo ``rows_of``."""
    rank = len(taps)
    x = rows.unflatten(0, (*taps[:0:-1], channels, taps[0]))
    return x.permute(rank - 1, -1, rank, *range(rank - 2, -1, -1))


def spread(
    maps: Sequence[Tensor],
    rows: Sequence[Tensor],
    axes: Sequence[Sequence[Tensor]],
    taps: Sequence[int],
) -> Tensor:
    """Convolve the resized maps and sum: ``(N, c, *size)``.

    Args:
        maps: ``(N, C, *low)`` each.
        rows: Of each map, for c output channels: see ``rows_of``.
        axes: Of each map, the ``tap_matrix`` of each axis.
        taps: Of the kernel, an axis.
    """
    rank, parts = len(taps), []
    for x, row, matrices in zip(maps, rows, axes, strict=True):
        t = product(row, x.flatten(2)).unflatten(2, x.shape[2:])
        t = t.unflatten(1, (*taps[:0:-1], -1, taps[0]))
        # Here and below: N, taps of the axes to come, c, pixels of each axis.
        t = t.flatten(rank + 1, rank + 2)
        for axis, matrix in enumerate(matrices[:-1]):
            if axis:
                t = torch.cat(t.unbind(rank - axis), dim=rank + 1)
            lead, rest = t.shape[: rank + 1], t.shape[rank + 2 :]
            t = product(matrix, t.reshape(-1, t.shape[rank + 1], rest.numel()))
            t = t.view(*lead, len(matrix), *rest)
        parts += t.unbind(1)
    joined = torch.cat(parts, dim=-1)
    last = torch.cat([matrices[-1] for matrices in axes], dim=1)
    out = product_last(joined.flatten(0, -3), last.T)
    return out.reshape(*joined.shape[:-1], len(last))


def gather(
    g: Tensor,
    axes: Sequence[Tensor],
    low: Sequence[int],
    taps: Sequence[int],
) -> Tensor:
    """Return ``spread``'s gradient of a map's products with its rows.

    Args:
        g: Gradient of the sum, ``(N, c, *size)``.
        axes: ``tap_matrix`` of each axis.
        low: Pixels of the map, an axis.
        taps: Of the kernel, an axis.

    Returns:
        ``(N, taps * c, pixels)``, in the order of ``rows_of``.
    """
    rank = len(taps)
    t = product_last(g.flatten(0, -3), axes[-1])
    t = t.reshape(*g.shape[:-1], taps[-1], low[-1]).movedim(-2, 1)
    for axis in reversed(range(rank - 1)):
        lead, rest = t.shape[: rank + 1], t.shape[rank + 2 :]
        t = t.reshape(-1, t.shape[rank + 1], rest.numel())
        t = product(axes[axis].T, t)
        t = t.view(*lead, taps[axis], low[axis], *rest)
        if axis:
            t = t.movedim(rank + 1, rank - axis)
    return t.reshape(len(g), -1, math.prod(low))


def gradient_of_rows(g: Tensor, x: Tensor) -> Tensor:
    """Return ``sum of g_n x_n^T`` for ``(N, M, P)`` and ``(N, C, P)``."""
    if x.dtype != torch.float32:
        return torch.tensordot(g, x, dims=([0, 2], [0, 2]))
    shape = (g.shape[1], x.shape[1], 1)
    return gradients.conv1d_weight(x, shape, g, dilation=2)[..., 0]


def multiply_adds(
    low: Sequence[int], high: Sequence[int], taps: Sequence[int]
) -> tuple[int, int]:
    """Count the work at low resolution, an output channel and image.

    Args:
        low: Pixels of the map, an axis.
        high: Pixels after the resize.
        taps: Of the kernel, an axis.

    Returns:
        Multiply-adds for each input channel, and those of the axes.
    """
    spread = [k * s for k, s in zip(taps, low, strict=True)]
    axes = [
        math.prod(spread[i:]) * math.prod(high[: i + 1])
        for i in range(len(low))
    ]
    return math.prod(spread), sum(axes)


def is_cheaper_at_low_resolution(
    in_channels: int,
    low: Sequence[int],
    high: Sequence[int],
    taps: Sequence[int],
    price: int = 1,
) -> bool:
    """Tell whether to convolve a map before its resize: the cost rule.

    Args:
        in_channels: Channels of the map.
        low: Its pixels, an axis.
        high: Pixels after the resize.
        taps: Of the kernel, an axis.
        price: Of a multiply-add there, in those of the plain form.
    """
    each, axes = multiply_adds(low, high, taps)
    plain = in_channels * math.prod(taps) * math.prod(high)
    return price * (in_channels * each + axes) < plain
