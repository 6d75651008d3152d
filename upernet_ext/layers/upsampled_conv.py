"""Convolve upsampled maps at their own resolution, exactly.

A linear resize ``U`` and a convolution are both linear, and ``U`` acts on each
channel by itself, so they change places: with ``W_t`` the matrix of tap ``t``,

    conv(U x)[p] = sum over taps t of (U (W_t x))[p + t].

All ``W_t x`` are one matrix product at low resolution. Resize, shift and sum
over the taps are separable: one matrix product an axis. The convolution of
maps joined along their channels is the sum of theirs. The resized maps, and
their concatenation, never exist. ``docs/performance.md`` counts what it saves.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, compress
from typing import Any, NamedTuple

import torch
from mmcv.cnn import ConvModule
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn import grad as gradients

from .linear_resize import resize_matrix
from .rank import is_plain_conv, resize

# Numbers that a block of output channels may hold at a time on a CPU, whose
# caches hold as many: 4 MiB in float32.
CPU_BLOCK = 2**20


# A number to torch.compile, whose tracer passes by the cache of a function.
@torch.compiler.assume_constant_result
def tap_matrix(*args) -> Tensor:
    """See ``_tap_matrix``."""
    return _tap_matrix(*args)


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


def _product(matrix: Tensor, x: Tensor) -> Tensor:
    """``matrix @ x`` for ``(M, K)`` and ``(B, K, N)``."""
    if x.dtype != torch.float32:
        return torch.matmul(matrix, x)
    # As a convolution: it obeys the same precision switch as the plain form
    # (TF32). On one thread torch leaves an undilated one to MKL, which is
    # half as fast on AMD; the dilation of a single tap means nothing.
    return F.conv1d(x, matrix[:, :, None], dilation=2)


def _product_last(x: Tensor, matrix: Tensor) -> Tensor:
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


def _rows(kernel: Tensor) -> Tensor:
    """Order ``(c, C, k_1, ..., k_r)`` as ``(k_r ... k_2 c k_1, C)``.

    The taps of the first axis are next to its pixels in the product with a
    map, and those of the others outermost, where they are free to move.
    """
    rank = kernel.ndim - 2
    order = (*range(rank + 1, 2, -1), 0, 2, 1)
    return kernel.permute(order).reshape(-1, kernel.shape[1])


def _kernel(rows: Tensor, channels: int, taps: Sequence[int]) -> Tensor:
    """Undo ``_rows``."""
    rank = len(taps)
    x = rows.unflatten(0, (*taps[:0:-1], channels, taps[0]))
    return x.permute(rank - 1, -1, rank, *range(rank - 2, -1, -1))


def _spread(
    maps: Sequence[Tensor],
    rows: Sequence[Tensor],
    axes: Sequence[Sequence[Tensor]],
    taps: Sequence[int],
) -> Tensor:
    """Convolve the resized maps and sum: ``(N, c, *size)``.

    Args:
        maps: ``(N, C, *low)`` each.
        rows: Of each map, for c output channels: see ``_rows``.
        axes: Of each map, the ``tap_matrix`` of each axis.
        taps: Of the kernel, an axis.
    """
    rank, parts = len(taps), []
    for x, row, matrices in zip(maps, rows, axes, strict=True):
        t = _product(row, x.flatten(2)).unflatten(2, x.shape[2:])
        t = t.unflatten(1, (*taps[:0:-1], -1, taps[0]))
        # Here and below: N, taps of the axes to come, c, pixels of each axis.
        t = t.flatten(rank + 1, rank + 2)
        for axis, matrix in enumerate(matrices[:-1]):
            if axis:
                t = torch.cat(t.unbind(rank - axis), dim=rank + 1)
            lead, rest = t.shape[: rank + 1], t.shape[rank + 2 :]
            t = _product(
                matrix, t.reshape(-1, t.shape[rank + 1], rest.numel())
            )
            t = t.view(*lead, len(matrix), *rest)
        parts += t.unbind(1)
    joined = torch.cat(parts, dim=-1)
    last = torch.cat([matrices[-1] for matrices in axes], dim=1)
    out = _product_last(joined.flatten(0, -3), last.T)
    return out.reshape(*joined.shape[:-1], len(last))


def _gather(
    g: Tensor,
    axes: Sequence[Tensor],
    low: Sequence[int],
    taps: Sequence[int],
) -> Tensor:
    """Return ``_spread``'s gradient of a map's products with its rows.

    Args:
        g: Gradient of the sum, ``(N, c, *size)``.
        axes: ``tap_matrix`` of each axis.
        low: Pixels of the map, an axis.
        taps: Of the kernel, an axis.

    Returns:
        ``(N, taps * c, pixels)``, in the order of ``_rows``.
    """
    rank = len(taps)
    t = _product_last(g.flatten(0, -3), axes[-1])
    t = t.reshape(*g.shape[:-1], taps[-1], low[-1]).movedim(-2, 1)
    for axis in reversed(range(rank - 1)):
        lead, rest = t.shape[: rank + 1], t.shape[rank + 2 :]
        t = t.reshape(-1, t.shape[rank + 1], rest.numel())
        t = _product(axes[axis].T, t)
        t = t.view(*lead, taps[axis], low[axis], *rest)
        if axis:
            t = t.movedim(rank + 1, rank - axis)
    return t.reshape(len(g), -1, math.prod(low))


def _gradient_of_rows(g: Tensor, x: Tensor) -> Tensor:
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
) -> bool:
    """Tell whether to convolve a map before its resize: the cost rule.

    Args:
        in_channels: Channels of the map.
        low: Its pixels, an axis.
        high: Pixels after the resize.
        taps: Of the kernel, an axis.
    """
    each, axes = multiply_adds(low, high, taps)
    plain = in_channels * math.prod(taps) * math.prod(high)
    return in_channels * each + axes < plain


def _blocks(total: int, most: int) -> list[slice]:
    """Cut ``total`` into parts of at most ``most``, as few as can be."""
    step = math.ceil(total / math.ceil(total / max(1, most)))
    starts = range(0, total, step)
    return [slice(start, min(start + step, total)) for start in starts]


class _Geometry(NamedTuple):
    """What a convolution of resized maps needs beside its tensors.

    Attributes:
        size: Pixels of the result, an axis.
        taps: Of the kernel, an axis.
        dilation: In pixels of the result, an axis.
        align_corners: Of the resize.
        plain: First and last input channel of each piece of the map that is
            convolved plainly.
        low: The same of each map that is convolved before its resize.
    """

    size: tuple[int, ...]
    taps: tuple[int, ...]
    dilation: tuple[int, ...]
    align_corners: bool
    plain: tuple[tuple[int, int], ...]
    low: tuple[tuple[int, int], ...]

    @property
    def arguments(self) -> tuple:
        """Stride, padding, dilation and so on of torch's convolution."""
        rank = len(self.size)
        padding = [
            d * (k // 2) for d, k in zip(self.dilation, self.taps, strict=True)
        ]
        one, none = [1] * rank, [0] * rank
        return one, padding, list(self.dilation), False, none, 1

    def axes(self, x: Tensor) -> list[Tensor]:
        """Return the ``tap_matrix`` of each axis of a map."""
        rows = zip(
            x.shape[2:], self.size, self.taps, self.dilation, strict=True
        )
        end = (self.align_corners, x.dtype, x.device)
        return [tap_matrix(*row, *end) for row in rows]

    def kernel(self, weight: Tensor) -> Tensor:
        """Return the part of the plainly convolved map."""
        pieces = [weight[:, start:stop] for start, stop in self.plain]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)

    def blocks(
        self, maps: Sequence[Tensor], channels: int
    ) -> list[tuple[slice, slice]]:
        """Cut the result: output channels and images of each block.

        What a block holds is no more than the resized maps would be.
        """
        pixels, images = math.prod(self.size), len(maps[0])
        held = pixels
        for x in maps:
            low = x.shape[2:]
            products, _ = multiply_adds(low, self.size, self.taps)
            last = self.taps[-1] * low[-1] * pixels // self.size[-1]
            held += products + 2 * last
        most = sum(images * x.shape[1] for x in maps) * pixels
        if maps[0].device.type == 'cpu':
            most = min(most, CPU_BLOCK)
        return [
            (some, few)
            for some in _blocks(channels, most // held)
            for few in _blocks(images, most // held // channels)
        ]


class _Convolution(torch.autograd.Function):
    """Convolve one map plainly and others before their resize, and sum.

    Everything is linear, so that nothing but the inputs is saved.
    """

    @staticmethod
    def forward(
        ctx: Any,
        geometry: _Geometry,
        weight: Tensor,
        bias: Tensor | None,
        plain: Tensor | None,
        *maps: Tensor,
    ) -> Tensor:
        ctx.geometry = geometry
        ctx.save_for_backward(weight, plain, *maps)
        out = _plain_part(geometry, weight, bias, plain, maps[0])
        axes = [geometry.axes(x) for x in maps]
        for channels, images in geometry.blocks(maps, len(weight)):
            rows = [
                _rows(weight[channels, start:stop])
                for start, stop in geometry.low
            ]
            some = [x[images] for x in maps]
            out[images, channels] += _spread(some, rows, axes, geometry.taps)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        geometry = ctx.geometry
        weight, plain, *maps = ctx.saved_tensors
        _, weight_wanted, bias_wanted, plain_wanted, *wanted = (
            ctx.needs_input_grad
        )
        g_weight = torch.empty_like(weight) if weight_wanted else None
        g_bias = g.sum((0, *range(2, g.ndim))) if bias_wanted else None
        g_plain = None
        if plain is not None and (plain_wanted or weight_wanted):
            g_plain = _plain_part_backward(
                geometry, g, weight, plain, g_weight, plain_wanted
            )
        g_maps = _low_part_backward(
            geometry, g, weight, maps, g_weight, wanted
        )
        return None, g_weight, g_bias, g_plain, *g_maps


def _plain_part(
    geometry: _Geometry,
    weight: Tensor,
    bias: Tensor | None,
    plain: Tensor | None,
    like: Tensor,
) -> Tensor:
    rank = len(geometry.size)
    if plain is not None:
        return torch.convolution(
            plain,
            geometry.kernel(weight),
            bias,
            *geometry.arguments,
        )
    shape = (len(like), len(weight), *geometry.size)
    if bias is None:
        return like.new_zeros(shape)
    return bias.view(-1, *[1] * rank).expand(shape).contiguous()


def _plain_part_backward(
    geometry: _Geometry,
    g: Tensor,
    weight: Tensor,
    plain: Tensor,
    g_weight: Tensor | None,
    wanted: bool,
) -> Tensor | None:
    """Return the gradient of the map, and write that of its kernel."""
    g_plain, g_kernel, _ = torch.ops.aten.convolution_backward(
        g,
        plain,
        geometry.kernel(weight),
        None,
        *geometry.arguments,
        [wanted, g_weight is not None, False],
    )
    if g_weight is not None:
        widths = [stop - start for start, stop in geometry.plain]
        pieces = g_kernel.split(widths, dim=1)
        for (start, stop), piece in zip(geometry.plain, pieces, strict=True):
            g_weight[:, start:stop] = piece
    return g_plain


def _low_part_backward(
    geometry: _Geometry,
    g: Tensor,
    weight: Tensor,
    maps: Sequence[Tensor],
    g_weight: Tensor | None,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradient of each map, and write those of their kernels."""
    taps = geometry.taps
    g_maps = [
        torch.zeros_like(x.flatten(2)) if needed else None
        for x, needed in zip(maps, wanted, strict=True)
    ]
    for (start, stop), x, g_map in zip(
        geometry.low, maps, g_maps, strict=True
    ):
        if g_map is None and g_weight is None:
            continue
        axes, pixels = geometry.axes(x), x.flatten(2)
        if g_weight is not None:
            g_weight[:, start:stop] = 0
        for channels, images in geometry.blocks(maps, len(weight)):
            block = _gather(g[images, channels], axes, x.shape[2:], taps)
            if g_map is not None:
                rows = _rows(weight[channels, start:stop])
                g_map[images] += _product(rows.T, block)
            if g_weight is not None:
                found = _gradient_of_rows(block, pixels[images])
                count = channels.stop - channels.start
                found = _kernel(found, count, taps)
                g_weight[channels, start:stop] += found
    return [
        g_map if g_map is None else g_map.view_as(x)
        for g_map, x in zip(g_maps, maps, strict=True)
    ]


class UpsampledConvModule(ConvModule):
    """mmcv's ``ConvModule`` of maps that are resized and joined before it.

    Parameters, their names and the result are those of the plain form:
    resize every map to one size, join them along the channels, convolve,
    normalise, activate. A map that is cheaper to convolve at its own
    resolution (``is_cheaper_at_low_resolution``) is. What is no plain
    zero-padded convolution that keeps the size takes the plain form, as does
    one whose inner ``conv`` has a hook, and a model that is exported.

    Args:
        *args: To ``ConvModule``.
        align_corners: Of the resize.
        **kwargs: To ``ConvModule``.
    """

    def __init__(self, *args, align_corners: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.align_corners = align_corners

    def forward(
        self,
        maps: Tensor | Sequence[Tensor],
        size: Sequence[int] | None = None,
        *,
        activate: bool = True,
        norm: bool = True,
    ) -> Tensor:
        """Convolve the maps at ``size``.

        Args:
            maps: ``(N, C_i, *S_i)``, one or several, in the order of the
                weight's input channels.
            size: Pixels an axis; by default the first map's.
            activate: Activate.
            norm: Normalise.

        Returns:
            ``(N, out_channels, *size)``.
        """
        maps = [maps] if isinstance(maps, Tensor) else list(maps)
        size = tuple(maps[0].shape[2:] if size is None else size)
        low = self._at_low_resolution(maps, size)
        if any(low):
            x = self._convolve(maps, size, low)
            x = self.norm(x) if norm and self.with_norm else x
            act = activate and self.with_activation
            return self.activate(x) if act else x
        return super().forward(self._joined(maps, size), activate, norm)

    def _joined(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        maps = [resize(x, size, self.align_corners) for x in maps]
        return maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)

    def _at_low_resolution(
        self, maps: Sequence[Tensor], size: tuple[int, ...]
    ) -> list[bool]:
        """Tell for each map whether it is convolved before its resize."""
        same = all(type(x) is Tensor for x in maps) and self._is_plain(size)
        taps = self.conv.kernel_size
        return [
            same
            and tuple(x.shape[2:]) != size
            and is_cheaper_at_low_resolution(
                x.shape[1], x.shape[2:], size, taps
            )
            for x in maps
        ]

    def _is_plain(self, size: Sequence[int]) -> bool:
        """Tell whether the module is what ``_convolve`` computes."""
        conv = self.conv
        return (
            is_plain_conv(conv)
            and self.order == ('conv', 'norm', 'act')
            and not self.with_explicit_padding
            and self.efficient_conv_bn_eval_forward is None
            # torch's backward of maps below the kernel: see rank.Conv3d.
            and all(
                s >= k for s, k in zip(size, conv.kernel_size, strict=True)
            )
            and not torch.jit.is_tracing()
            and not torch.compiler.is_exporting()
        )

    def _convolve(
        self,
        maps: Sequence[Tensor],
        size: tuple[int, ...],
        low: Sequence[bool],
    ) -> Tensor:
        conv, device = self.conv, maps[0].device.type
        stops = list(accumulate(x.shape[1] for x in maps))
        columns = list(zip([0, *stops[:-1]], stops, strict=True))
        tensors = [conv.weight, conv.bias]
        plain = [x for x, is_low in zip(maps, low, strict=True) if not is_low]
        tensors.append(self._joined(plain, size) if plain else None)
        tensors += compress(maps, low)
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            tensors = [t if t is None else t.to(dtype) for t in tensors]
        geometry = _Geometry(
            size,
            conv.kernel_size,
            conv.dilation,
            self.align_corners,
            tuple(compress(columns, (not is_low for is_low in low))),
            tuple(compress(columns, low)),
        )
        return _Convolution.apply(geometry, *tensors)
