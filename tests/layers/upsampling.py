"""The plain form of what UpsampledConvModule computes, and its like."""

import pytest
import torch
from mmcv.cnn import ConvModule
from torch import Tensor

from upernet_ext.layers import UpsampledConvModule
from upernet_ext.layers.rank import conv_module, resize

both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])


class Always(UpsampledConvModule):
    """Convolve every resized map at its own resolution, cheaper or not."""

    def _at_low_resolution(self, maps, size):
        assert self._is_plain(size)
        return [tuple(x.shape[2:]) != size for x in maps]


def build(
    spatial_dims: int,
    channels: int,
    out_channels: int = 5,
    kernel: int = 3,
    kind: type[ConvModule] = UpsampledConvModule,
    act: dict | None = None,
    **kwargs,
) -> ConvModule:
    return conv_module(
        channels,
        out_channels,
        kernel,
        spatial_dims=spatial_dims,
        kind=kind,
        act=act,
        **kwargs,
    )


def plain(module: UpsampledConvModule, maps: list[Tensor], size) -> Tensor:
    x = torch.cat([resize(x, size, module.align_corners) for x in maps], 1)
    return ConvModule.forward(module, x)


def is_fused(out: Tensor) -> bool:
    return any(
        '_Convolution' in node.name() for node, _ in _graph(out.grad_fn)
    )


def _graph(node, depth: int = 3):
    if node is not None and depth:
        yield node, depth
        for child, _ in node.next_functions:
            yield from _graph(child, depth - 1)


def assert_same(found: Tensor, wanted: Tensor, leaves: list[Tensor]) -> None:
    """Compare values and gradients, relative to the largest entry."""
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[found.dtype]
    g = torch.randn_like(wanted)
    pairs = zip(
        (found, *torch.autograd.grad(found, leaves, g)),
        (wanted, *torch.autograd.grad(wanted, leaves, g)),
        strict=True,
    )
    for ours, theirs in pairs:
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=tolerance * scale
        )


def random_maps(
    images: int, channels, sizes, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    return [
        torch.randn(images, c, *size, dtype=dtype, requires_grad=True)
        for c, size in zip(channels, sizes, strict=True)
    ]
