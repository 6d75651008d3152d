"""Convolve upsampled maps without upsampling them.

The convolution of maps joined along their channels is the sum of theirs, and
that of a resized map can be had at its own resolution, exactly
(``low_resolution_conv``): the resized maps, and their concatenation, never
exist.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, compress
from typing import Any, NamedTuple

import torch
from mmcv.cnn import ConvModule
from torch import Tensor

from .low_resolution_conv import (
    gather,
    gradient_of_rows,
    is_cheaper_at_low_resolution,
    kernel_of,
    multiply_adds,
    product,
    rows_of,
    spread,
    tap_matrix,
)
from .precision import autocast_dtype, no_autocast
from .rank import is_plain_conv, resize

# Numbers that a block of output channels may hold on a CPU: 16 MiB in
# float32. Larger ones leave the caches, smaller ones repeat more work.
CPU_BLOCK = 2**22


def _blocks(total: int, most: int) -> list[slice]:
    """Cut ``total`` into parts of at most ``most``, as few as can be."""
    step = math.ceil(total / math.ceil(total / max(1, most)))
    starts = range(0, total, step)
    return [slice(start, min(start + step, total)) for start in starts]


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type between the products, at least float32.

    In half precision each would round once more than the plain form does.
    """
    return torch.promote_types(dtype, torch.float32)


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
        end = (self.align_corners, _wide(x.dtype), x.device)
        return [tap_matrix(*row, *end) for row in rows]

    def kernel(self, weight: Tensor) -> Tensor:
        """Return the plainly convolved map's part of the weight."""
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
            joined = self.taps[0] * low[0] * pixels // self.size[0]
            held += 2 * max(products, joined)
        most = sum(images * x.shape[1] for x in maps) * pixels
        most = most * maps[0].itemsize // _wide(maps[0].dtype).itemsize
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
        if plain is None and bias is not None:
            bias = bias.view(-1, *[1] * len(geometry.size))
        axes = [geometry.axes(x) for x in maps]
        wide = _wide(out.dtype)
        for channels, images in geometry.blocks(maps, len(weight)):
            rows = [
                rows_of(weight[channels, start:stop]).to(wide)
                for start, stop in geometry.low
            ]
            some = [x[images].to(wide) for x in maps]
            found = spread(some, rows, axes, geometry.taps)
            if plain is not None:
                out[images, channels] += found
            else:
                found = found if bias is None else found.add_(bias[channels])
                out[images, channels] = found
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        geometry = ctx.geometry
        weight, plain, *maps = ctx.saved_tensors
        _, weight_wanted, bias_wanted, plain_wanted, *wanted = (
            ctx.needs_input_grad
        )
        dtype = _wide(weight.dtype)
        g_weight = (
            torch.empty_like(weight, dtype=dtype) if weight_wanted else None
        )
        g_bias = g.sum((0, *range(2, g.ndim))) if bias_wanted else None
        g_plain = None
        if plain is not None and (plain_wanted or weight_wanted):
            g_plain = _plain_part_backward(
                geometry, g, weight, plain, g_weight, plain_wanted
            )
        g_maps, blocks = [], geometry.blocks(maps, len(weight))
        for (start, stop), x, needed in zip(
            geometry.low, maps, wanted, strict=True
        ):
            kernel, g_kernel = (
                w if w is None else w[:, start:stop]
                for w in (weight, g_weight)
            )
            g_map = None
            if needed or weight_wanted:
                g_map = _low_map_backward(
                    geometry, g, kernel, x, g_kernel, needed, blocks
                )
            g_maps.append(g_map)
        if g_weight is not None:
            g_weight = g_weight.to(weight.dtype)
        return None, g_weight, g_bias, g_plain, *g_maps


def _plain_part(
    geometry: _Geometry,
    weight: Tensor,
    bias: Tensor | None,
    plain: Tensor | None,
    like: Tensor,
) -> Tensor:
    if plain is None:
        return like.new_empty(len(like), len(weight), *geometry.size)
    kernel = geometry.kernel(weight).to(plain.dtype)
    return torch.convolution(plain, kernel, bias, *geometry.arguments)


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
        geometry.kernel(weight).to(plain.dtype),
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


def _low_map_backward(
    geometry: _Geometry,
    g: Tensor,
    kernel: Tensor,
    x: Tensor,
    g_kernel: Tensor | None,
    wanted: bool,
    blocks: Sequence[tuple[slice, slice]],
) -> Tensor | None:
    """Return the gradient of a map, and write that of its kernel."""
    wide = _wide(g.dtype)
    axes, pixels = geometry.axes(x), x.flatten(2).to(wide)
    g_map = torch.zeros_like(pixels) if wanted else None
    for channels, images in blocks:
        block = g[images, channels].to(wide)
        block = gather(block, axes, x.shape[2:], geometry.taps)
        if g_map is not None:
            rows = rows_of(kernel[channels]).to(wide)
            g_map[images] += product(rows.T, block)
        if g_kernel is not None:
            found = gradient_of_rows(block, pixels[images])
            found = kernel_of(found, geometry.taps)
            if images.start:
                found = found + g_kernel[channels]
            g_kernel[channels] = found
    return None if g_map is None else g_map.view_as(x).to(x.dtype)


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
        # Other tensors (fake, distributed) know the plain form's operators.
        if not all(type(x) is Tensor for x in maps):
            return [False] * len(maps)
        if not self._is_plain(size):
            return [False] * len(maps)
        # Between the products are numbers of float32, for which tensor cores
        # and vector units are half as fast as for the plain form's.
        price = 1 if self._dtype(maps[0]).itemsize > 2 else 2
        taps = self.conv.kernel_size
        low = [
            tuple(x.shape[2:]) != size
            and is_cheaper_at_low_resolution(
                x.shape[1], x.shape[2:], size, taps, price
            )
            for x in maps
        ]
        # The other maps' part of the weight is copied: more than is saved
        # where the maps are small.
        saved = sum(x.shape[1] for x in compress(maps, low))
        copied = (self.conv.in_channels - saved) * self.conv.weight[
            :, 0
        ].numel()
        saved *= len(maps[0]) * math.prod(size)
        return [is_low and saved > copied for is_low in low]

    def _dtype(self, x: Tensor) -> torch.dtype:
        """Return the type that the plain form computes with."""
        cast_to = autocast_dtype(x.device)
        if cast_to is None or x.dtype == torch.float64:
            return self.conv.weight.dtype
        return cast_to

    def _is_plain(self, size: Sequence[int]) -> bool:
        """Tell whether the module is what ``_convolve`` computes."""
        conv = self.conv
        return (
            not torch.jit.is_tracing()
            and not torch.compiler.is_exporting()
            and is_plain_conv(conv)
            and self.order == ('conv', 'norm', 'act')
            and not self.with_explicit_padding
            and self.efficient_conv_bn_eval_forward is None
            # torch's backward of maps below the kernel: see rank.Conv3d.
            and all(
                s >= k for s, k in zip(size, conv.kernel_size, strict=True)
            )
        )

    def _convolve(
        self,
        maps: Sequence[Tensor],
        size: tuple[int, ...],
        low: Sequence[bool],
    ) -> Tensor:
        conv = self.conv
        stops = list(accumulate(x.shape[1] for x in maps))
        columns = list(zip([0, *stops[:-1]], stops, strict=True))
        tensors = [conv.bias]
        plain = [x for x, is_low in zip(maps, low, strict=True) if not is_low]
        tensors.append(self._joined(plain, size) if plain else None)
        tensors += compress(maps, low)
        dtype = self._dtype(maps[0])
        tensors = [t if t is None else t.to(dtype) for t in tensors]
        geometry = _Geometry(
            size,
            conv.kernel_size,
            conv.dilation,
            self.align_corners,
            tuple(compress(columns, (not is_low for is_low in low))),
            tuple(compress(columns, low)),
        )
        with no_autocast(maps[0].device):
            return _Convolution.apply(geometry, conv.weight, *tensors)
