"""Convolutions that torch leaves to slow code on a CPU.

On one thread torch takes a float32 convolution of one map to oneDNN only if
the map has many numbers (``ConvParams::use_mkldnn`` in
aten/src/ATen/native/Convolution.cpp), and gives it 1x1 kernels only if they
are dilated; else it makes the matrix of all windows and multiplies it by MKL:
a third as fast on AMD. Where the map has a few pixels the matrix of windows
is small and the better way, for oneDNN copies the kernel into an order of its
own: there it takes twice the time, and once more the kernel's bytes.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from .precision import autocast_dtype

# Numbers of one map, without its last axis, that oneDNN gets.
_ONEDNN_NUMBERS = 20480
# Up to so many pixels, and above so many weights, the matrix of windows is the
# better way.
_FEW_PIXELS = 32
_MANY_WEIGHTS = 2**21


def _pads(taps: Sequence[int]) -> list[int]:
    """Return ``F.pad``'s argument that keeps the size."""
    return [k // 2 for k in reversed(taps) for _ in range(2)]


def _windows(x: Tensor, taps: Sequence[int]) -> Tensor:
    """Return what the kernel sees at each pixel: ``(N * P, C * taps)``."""
    rank = len(taps)
    x = F.pad(x, _pads(taps))
    for axis, k in enumerate(taps, start=2):
        x = x.unfold(axis, k, 1)
    return x.movedim(1, 1 + rank).flatten(1 + rank).flatten(0, rank)


def _sum_of_windows(
    windows: Tensor, shape: Sequence[int], taps: Sequence[int]
) -> Tensor:
    """Return the gradient of a map ``(N, C, *S)``, given ``_windows``'s."""
    images, channels, *size = shape
    windows = windows.view(images, *size, channels, -1)
    padded = [s + k - 1 for s, k in zip(size, taps, strict=True)]
    out = windows.new_zeros(images, *padded, channels)
    steps = product(*(range(k) for k in taps))
    for step, seen in zip(steps, windows.unbind(-1), strict=True):
        _crop(out, step, size).add_(seen)
    return _crop(out, [k // 2 for k in taps], size).movedim(-1, 1)


def _crop(x: Tensor, starts: Sequence[int], size: Sequence[int]) -> Tensor:
    """Cut ``size`` pixels out of ``(N, *S, C)``: a view."""
    for axis, (start, s) in enumerate(zip(starts, size, strict=True), start=1):
        x = x.narrow(axis, start, s)
    return x


class _WindowProduct(torch.autograd.Function):
    """Convolve by one product with the kernel as it lies in memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        out = _windows(x, weight.shape[2:]) @ weight.flatten(1).T
        out = out.view(len(x), *x.shape[2:], -1)
        return out.movedim(-1, 1).contiguous()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        taps, g_x, g_weight = weight.shape[2:], None, None
        g = g.movedim(1, -1).flatten(0, -2)
        if ctx.needs_input_grad[0]:
            g_x = _sum_of_windows(g @ weight.flatten(1), x.shape, taps)
        if ctx.needs_input_grad[1]:
            g_weight = (g.T @ _windows(x, taps)).view_as(weight)
        return g_x, g_weight


def _in_halves(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve the halves of one map as two: two maps go to oneDNN.

    The halves overlap by what the kernel sees of the other.
    """
    (edge, *_), taps = x.shape[2:], weight.shape[2:]
    half, reach = -(-edge // 2), taps[0] // 2
    behind = reach + 2 * half - edge
    x = F.pad(x, [0, 0] * (x.ndim - 3) + [reach, behind])
    pieces = [x.narrow(2, i * half, half + 2 * reach) for i in range(2)]
    padding = [0, *(k // 2 for k in taps[1:])]
    out = _convolve(torch.cat(pieces), weight, bias, padding)
    return torch.cat(out.split(1), dim=2).narrow(2, 0, edge)


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    padding: Sequence[int],
    dilation: int = 1,
) -> Tensor:
    rank = x.ndim - 2
    return torch.convolution(
        x,
        weight,
        bias,
        [1] * rank,
        list(padding),
        [dilation] * rank,
        False,
        [0] * rank,
        1,
    )


def convolve_on_cpu(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor | None:
    """Convolve in a faster way than torch's, if there is one.

    Args:
        x: ``(N, C, *S)``.
        weight: ``(O, C, *taps)`` of odd width; the stride is 1 and the
            padding, of zeros, keeps the size.
        bias: ``(O,)``.

    Returns:
        ``(N, O, *S)``; ``None`` where torch's own is the way to go.
    """
    if not _is_torchs_choice_known(x, weight):
        return None
    taps, size = weight.shape[2:], x.shape[2:]
    for_onednn = len(x) > 1 or x[..., 0].numel() > _ONEDNN_NUMBERS
    if math.prod(taps) == 1:
        # The dilation of a single tap means nothing.
        dilation, padding = 2, [0] * len(taps)
        return (
            _convolve(x, weight, bias, padding, dilation)
            if for_onednn
            else None
        )
    few = math.prod(size) <= _FEW_PIXELS
    if few and len(x) == 1 and weight.numel() > _MANY_WEIGHTS:
        out = _WindowProduct.apply(x, weight)
        return out if bias is None else out + bias.view(-1, *[1] * len(taps))
    return None if few or for_onednn else _in_halves(x, weight, bias)


def _is_torchs_choice_known(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and type(x) is Tensor
        and x.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and autocast_dtype(x.device) is None
    )


class CpuConvMixin:
    """A convolution that is right on small maps of a CPU, and fast.

    oneDNN's gradient of bfloat16 weights is wrong, or NaN, where the map is
    smaller than the kernel (torch 2.13, AVX512_BF16): of a map 2 deep and a
    kernel of 3, for example. Those are convolved in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(N, C, *S)``."""
        small = any(
            size < edge
            for size, edge in zip(x.shape[2:], self.kernel_size, strict=True)
        )
        if not (small and x.device.type == 'cpu'):
            return super().forward(x)
        with torch.autocast('cpu', enabled=False):
            return super().forward(x.to(self.weight.dtype))

    def _conv_forward(
        self, x: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        out = None
        if self._keeps_the_size():
            out = convolve_on_cpu(x, weight, bias)
        return super()._conv_forward(x, weight, bias) if out is None else out

    def _keeps_the_size(self) -> bool:
        padding = tuple(k // 2 for k in self.kernel_size)
        return (
            all(k % 2 for k in self.kernel_size)
            and tuple(self.padding) == padding
            and {*self.stride, *self.dilation, self.groups} == {1}
            and self.padding_mode == 'zeros'
        )
