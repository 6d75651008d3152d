"""Convolutions of small maps on a CPU: right, and without a second kernel."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .precision import autocast_dtype

# Up to so many pixels, and from so many weights, windows are the better way.
_FEW_PIXELS = 32
_MANY_WEIGHTS = 2**21


class SmallMapMixin:
    """A convolution that is right, and lean, on small maps of a CPU.

    oneDNN's gradient of bfloat16 weights is wrong, or NaN, where the map is
    smaller than the kernel (torch 2.13, AVX512_BF16): of a map 2 deep and a
    kernel of 3, for example. Those are convolved in float32.

    And oneDNN copies a kernel into an order of its own. Of a few pixels, as
    at the pooled end of a 3D pyramid, the copy takes as long as the product,
    and more bytes than anything else: what the kernel sees of each pixel is
    multiplied by the kernel as it lies in memory.
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
        by_windows = (
            keeps_the_size(self)
            and set(self.dilation) == {1}
            and _is_mostly_kernel(x, weight)
        )
        convolve = _by_windows if by_windows else super()._conv_forward
        return convolve(x, weight, bias)


def keeps_the_size(conv: nn.Module) -> bool:
    """Tell whether a convolution's result has the size of its map.

    By stride 1, one group, an odd kernel and the padding with zeros that goes
    with it.
    """
    edges = zip(conv.kernel_size, conv.dilation, conv.padding, strict=False)
    return (
        set(conv.stride) == {1}
        and conv.groups == 1
        and conv.padding_mode == 'zeros'
        and all(k % 2 and p == k // 2 * d for k, d, p in edges)
    )


def _is_mostly_kernel(x: Tensor, weight: Tensor) -> bool:
    return (
        type(x) is Tensor
        and x.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32
        and len(x) * math.prod(x.shape[2:]) <= _FEW_PIXELS
        and weight.numel() >= _MANY_WEIGHTS
        and autocast_dtype(x.device) is None
        and not torch.jit.is_tracing()
        and not torch.compiler.is_compiling()
    )


def _by_windows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve ``(N, C, *S)`` with a kernel of odd width; keep the size."""
    taps = weight.shape[2:]
    x = F.pad(x, [k // 2 for k in reversed(taps) for _ in range(2)])
    for axis, edge in enumerate(taps, start=2):
        x = x.unfold(axis, edge, 1)
    windows = x.movedim(1, 1 + len(taps)).flatten(1 + len(taps))
    out = F.linear(windows, weight.flatten(1), bias)
    return out.movedim(-1, 1).contiguous()
