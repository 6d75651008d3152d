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
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn import grad as gradients

from .linear_resize import resize_matrix

# Where torch takes a float32 product of one image to oneDNN: above so many
# numbers (aten/src/ATen/native/Convolution.cpp, use_mkldnn).
_ONEDNN_NUMBERS = 20480
# oneDNN is twice as fast as MKL for products of this width and more, and half
# as fast below, unless the columns are fewer than MKL likes.
_ONEDNN_WIDTH, _MKL_COLUMNS = 48, 16


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


def _is_small(x: Tensor) -> bool:
    """Tell whether torch keeps a convolution of a map from oneDNN."""
    return len(x) == 1 and x.numel() <= _ONEDNN_NUMBERS


def product(matrix: Tensor, x: Tensor) -> Tensor:
    """``matrix @ x`` for ``(M, K)`` and ``(B, K, N)``."""
    if x.dtype != torch.float32:
        return torch.matmul(matrix, x)
    _, k, n = x.shape
    thin = k < _ONEDNN_WIDTH and n >= _MKL_COLUMNS
    if x.device.type == 'cpu' and (thin or _is_small(x)):
        return torch.matmul(matrix, x)
    # As a convolution: it obeys the same precision switch as the plain form
    # (TF32). On one thread torch leaves an undilated one to MKL, which is
    # half as fast on AMD; the dilation of a single tap means nothing.
    return F.conv1d(x, matrix[:, :, None], dilation=2)


def product_last(x: Tensor, matrix: Tensor) -> Tensor:
    """``x @ matrix`` for ``(A, B, K)`` and ``(K, N)``."""
    if x.dtype != torch.float32:
        return torch.matmul(x, matrix)
    if x.device.type == 'cpu' and _is_small(x[None]):
        return torch.matmul(x, matrix)
    a, b, k = x.shape
    # The stride of the one image, too, must be what channels-last has, or
    # torch copies the map into the plain order, and the result back.
    strides = (a * b * k, 1, b * k, k)
    channels_last = x.contiguous().as_strided((1, k, a, b), strides)
    kernel = matrix.T[:, :, None, None]
    ones, none = [1, 1], [0, 0]
    out = torch.convolution(
        channels_last, kernel, None, ones, none, [2, 2], False, none, 1
    )
    return out[0].permute(1, 2, 0)


def rows_of(kernel: Tensor) -> Tensor:
    """Order ``(c, C, *taps)`` as ``(c * taps, C)``."""
    return kernel.movedim(1, -1).reshape(-1, kernel.shape[1])


def kernel_of(rows: Tensor, taps: Sequence[int]) -> Tensor:
    """Undo ``rows_of``."""
    return rows.unflatten(0, (-1, *taps)).movedim(-1, 1)


def _interleaved(rank: int) -> list[int]:
    """Order ``(N, c, *taps, *pixels)`` as ``N, c``, then tap, pixel an axis.

    The taps of an axis next to its pixels are one axis to its matrix, so that
    the products from the last axis to the first need no other order.
    """
    pairs = [(2 + i, 2 + rank + i) for i in range(rank)]
    return [0, 1, *chain.from_iterable(pairs)]


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
    parts = []
    for x, row, (_, *matrices) in zip(maps, rows, axes, strict=True):
        low = x.shape[2:]
        t = product(row, x.flatten(2)).view(len(x), -1, *taps, *low)
        t = t.permute(_interleaved(len(low))).contiguous()
        right = 1
        for i, matrix in reversed(list(enumerate(matrices, start=1))):
            across = taps[i] * low[i]
            if right == 1:
                t = product_last(t.view(len(x), -1, across), matrix.T)
            else:
                t = product(matrix, t.view(-1, across, right))
            right *= len(matrix)
        parts.append(t.view(-1, taps[0] * low[0], right))
    joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    first = torch.cat([matrices[0] for matrices in axes], dim=1)
    size = [len(matrix) for matrix in axes[0]]
    return product(first, joined).view(len(maps[0]), -1, *size)


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
        ``(N, c * taps, pixels)``, in the order of ``rows_of``.
    """
    images, channels, *size = g.shape
    *matrices, last = axes
    t = g
    for i, matrix in enumerate(matrices):
        right = math.prod(size[i + 1 :])
        t = product(matrix.T, t.reshape(-1, size[i], right))
    t = product_last(t.reshape(images, -1, size[-1]), last)
    pairs = chain.from_iterable(zip(taps, low, strict=True))
    t = t.view(images, channels, *pairs)
    rank = len(taps)
    order = [*range(2, 2 + 2 * rank, 2), *range(3, 3 + 2 * rank, 2)]
    return t.permute(0, 1, *order).reshape(images, -1, math.prod(low))


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
        math.prod(spread[: i + 1]) * math.prod(high[i:])
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
