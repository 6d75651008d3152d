"""The one door that turns ``spatial_dims`` into torch's class names.

Everything else asks here for a convolution, a norm, a pooling, a dropout or
a resize of rank 2 or 3. The norms are written in ``norms``, which is part of
the door.
"""

import math
from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .hooks import runs_only_itself
from .norms import norm as norm
from .norms import norm_cfg
from .norms import revert_sync_batch_norm as revert_sync_batch_norm
from .small_conv import SmallMapMixin, keeps_the_size
from .spatial_dims import SPATIAL_DIMS, check_spatial_dims


def fitted_dilation(dilation: int, size: int, largest_dilation: int) -> int:
    """Shrink a dilation to an axis on which the largest finds padding only.

    A tap ``dilation`` pixels away lies on the map somewhere only where the
    axis is longer than that. Dilations that belong together shrink together,
    so that they stay different: the largest reaches from one end of the axis
    to the other.

    Args:
        dilation: Distance between taps, in pixels.
        size: Pixels of the axis.
        largest_dilation: Of all the dilations that belong together.
    """
    if largest_dilation < size:
        return dilation
    return max(1, dilation * (size - 1) // largest_dilation)


class _FittedDilationMixin:
    """Fit the dilation to each map's axes; parameters never change."""

    def __init__(self, *args, largest_dilation: int, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.largest_dilation = largest_dilation

    def forward(self, x: Tensor) -> Tensor:
        dilation = [
            fitted_dilation(d, size, self.largest_dilation)
            for d, size in zip(self.dilation, x.shape[2:], strict=True)
        ]
        padding = [
            d * (edge - 1) // 2
            for d, edge in zip(dilation, self.kernel_size, strict=True)
        ]
        return self._convolve(
            x,
            self.weight,
            self.bias,
            self.stride,
            padding,
            dilation,
            self.groups,
        )


class Conv3d(SmallMapMixin, nn.Conv3d):
    """``nn.Conv3d`` that is right, and lean, on small maps of a CPU."""


class FittedConv2d(_FittedDilationMixin, nn.Conv2d):
    """``nn.Conv2d`` whose ``dilation`` is at most what fits the map."""

    _convolve = staticmethod(F.conv2d)


class FittedConv3d(_FittedDilationMixin, nn.Conv3d):
    """``nn.Conv3d`` whose ``dilation`` is at most what fits the map."""

    _convolve = staticmethod(F.conv3d)


def conv_cfg(spatial_dims: int, largest_dilation: int | None = None) -> dict:
    """mmcv's ``conv_cfg`` for a convolution of this rank.

    A plain one; or one whose dilation is fitted to the map, together with
    others of at most ``largest_dilation``.
    """
    check_spatial_dims(spatial_dims)
    if largest_dilation is None:
        return dict(type={2: nn.Conv2d, 3: Conv3d}[spatial_dims])
    classes = {2: FittedConv2d, 3: FittedConv3d}
    return dict(type=classes[spatial_dims], largest_dilation=largest_dilation)


def double(channels: int, spatial_dims: int) -> nn.Module:
    """Transposed convolution that doubles every axis."""
    classes = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
    conv = classes[check_spatial_dims(spatial_dims)]
    return conv(channels, channels, kernel_size=2, stride=2)


class _SamePadding:
    """Pad as TensorFlow's SAME: ``ceil(size / stride)`` pixels come out.

    What is odd goes to the far end, and depends on the size of the input.
    """

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for size, kernel, stride, dilation in zip(
            x.shape[2:],
            self.kernel_size,
            self.stride,
            self.dilation,
            strict=True,
        ):
            reach = (math.ceil(size / stride) - 1) * stride
            pad = max(reach + (kernel - 1) * dilation + 1 - size, 0)
            pads = [pad // 2, pad - pad // 2, *pads]
        return super().forward(F.pad(x, pads))


class _SameConv2d(_SamePadding, nn.Conv2d):
    pass


class _SameConv3d(_SamePadding, nn.Conv3d):
    pass


def conv(
    in_channels: int,
    out_channels: int,
    kernel_size: int | Sequence[int],
    *,
    spatial_dims: int,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str | None = None,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = True,
) -> nn.Module:
    """Build a convolution of this rank.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Edge of the kernel, or one number an axis.
        spatial_dims: 2 or 3.
        stride: In pixels.
        padding: In pixels; by default what keeps the size of a map at
            stride 1, for an odd kernel; ``'same'`` for TensorFlow's, which
            is the same at stride 1.
        dilation: Distance between taps, in pixels.
        groups: Groups of channels.
        bias: Add a learned number a channel.
    """
    classes = {2: nn.Conv2d, 3: Conv3d}
    if padding == 'same':
        if stride == 1:
            padding = None
        else:
            classes = {2: _SameConv2d, 3: _SameConv3d}
            padding = 0
    if padding is None:
        edges = (
            (kernel_size,) * spatial_dims
            if isinstance(kernel_size, int)
            else kernel_size
        )
        padding = tuple(dilation * (edge - 1) // 2 for edge in edges)
    return classes[check_spatial_dims(spatial_dims)](
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=bias,
    )


def is_plain_conv(module: nn.Module) -> bool:
    """Tell whether a module is a plain convolution that keeps the size.

    Of stride 1, one group, an odd kernel and the padding with zeros that
    goes with it; and it runs no hook and no forward of others.
    """
    return (
        type(module) in (nn.Conv2d, nn.Conv3d, Conv3d)
        and keeps_the_size(module)
        and runs_only_itself(module)
    )


def conv_module(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    spatial_dims: int,
    kind: type[ConvModule] = ConvModule,
    norm: dict | None = None,
    act: dict | None = None,
    dilation: int = 1,
    largest_dilation: int | None = None,
    inplace: bool = True,
    **kwargs,
) -> ConvModule:
    """Build mmcv's ``ConvModule`` of this rank that keeps the map's size.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Odd edge of the kernel.
        spatial_dims: 2 or 3.
        norm: mmcv's ``norm_cfg``, of any rank.
        act: mmcv's ``act_cfg``.
        dilation: Distance between taps, in pixels.
        largest_dilation: See ``conv_cfg``.
        inplace: Let the activation overwrite its input.
        kind: ``ConvModule`` or a subclass.
        **kwargs: To ``kind``: ``groups``, ``bias``, ``order``.
    """
    return kind(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2 * dilation,
        dilation=dilation,
        conv_cfg=conv_cfg(spatial_dims, largest_dilation),
        norm_cfg=norm_cfg(norm, spatial_dims),
        act_cfg=act,
        inplace=inplace,
        **kwargs,
    )


def max_pool(
    spatial_dims: int,
    kernel_size: int | Sequence[int],
    *,
    stride: int | None = None,
    padding: int = 0,
    dilation: int | Sequence[int] = 1,
    ceil_mode: bool = False,
) -> nn.Module:
    """Max pooling; its stride is its window unless said otherwise."""
    classes = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
    return classes[check_spatial_dims(spatial_dims)](
        kernel_size, stride, padding, dilation, ceil_mode=ceil_mode
    )


class _AvgPool3d(nn.AvgPool3d):
    """``nn.AvgPool3d`` that takes an axis of one voxel, as 2D's does."""

    def forward(self, x: Tensor) -> Tensor:
        if self.ceil_mode and 1 in x.shape[2:]:
            edges = self.kernel_size
            edges = (edges,) * 3 if isinstance(edges, int) else edges
            # The mean of a voxel and its copies is the voxel.
            sizes = zip(x.shape[2:], edges, strict=True)
            x = x.expand(-1, -1, *(e if s == 1 else s for s, e in sizes))
        return super().forward(x)


def avg_pool(
    spatial_dims: int,
    kernel_size: int,
    *,
    stride: int | None = None,
    padding: int = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> nn.Module:
    """Average pooling; its stride is its window unless said otherwise."""
    classes = {2: nn.AvgPool2d, 3: _AvgPool3d}
    return classes[check_spatial_dims(spatial_dims)](
        kernel_size, stride, padding, ceil_mode, count_include_pad
    )


def channel_dropout(spatial_dims: int, ratio: float) -> nn.Module:
    """Dropout of whole channels."""
    classes = {2: nn.Dropout2d, 3: nn.Dropout3d}
    return classes[check_spatial_dims(spatial_dims)](ratio)


def adaptive_avg_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    """Average ``(N, C, *S)`` over a grid of ``size`` cells."""
    pools = {2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}
    return pools[check_spatial_dims(len(size))](x, tuple(size))


def resize(
    x: Tensor, size: Sequence[int], align_corners: bool = False
) -> Tensor:
    """Resample ``(N, C, *S)`` to ``(N, C, *size)``, (tri)linearly."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    mode = {2: 'bilinear', 3: 'trilinear'}[check_spatial_dims(len(size))]
    return F.interpolate(
        x, tuple(size), mode=mode, align_corners=align_corners
    )


def resize_smooth(
    x: Tensor, size: Sequence[int], *, antialias: bool = False
) -> Tensor:
    """Resample a smooth field: bicubic in 2D, trilinear in 3D.

    ``antialias`` averages where the new grid is coarser; torch has it in 2D.
    """
    rank = check_spatial_dims(len(size))
    return F.interpolate(
        x,
        tuple(size),
        mode={2: 'bicubic', 3: 'trilinear'}[rank],
        align_corners=False,
        antialias=antialias and rank == 2,
    )


def pad_to_multiple(x: Tensor, divisor: Sequence[int]) -> Tensor:
    """Pad the far end of every axis of ``(N, C, *S)`` to a multiple.

    By reflection, which keeps the statistics of the border; by replication
    where reflection cannot (the pad is as long as the axis).
    """
    pads = [-s % d for s, d in zip(x.shape[2:], divisor, strict=True)]
    if not any(pads):
        return x
    fits = all(p < s for p, s in zip(pads, x.shape[2:], strict=True))
    flat = [n for p in reversed(pads) for n in (0, p)]
    return F.pad(x, flat, mode='reflect' if fits else 'replicate')


def memory_format(
    spatial_dims: int, channels_last: bool
) -> torch.memory_format:
    """torch's name for one of the two orders of a map in memory."""
    if not channels_last:
        return torch.contiguous_format
    formats = {2: torch.channels_last, 3: torch.channels_last_3d}
    return formats[check_spatial_dims(spatial_dims)]


def order_memory(module: nn.Module, channels_last: bool) -> None:
    """Put a module's kernels, of any rank, in the order of its maps.

    What ``module.to(memory_format=...)`` does where all are of one rank; a
    network that takes a volume slice by slice has kernels of two.
    """
    for value in (*module.parameters(), *module.buffers()):
        rank = value.ndim - 2
        if rank in SPATIAL_DIMS:
            order = memory_format(rank, channels_last)
            value.data = value.data.contiguous(memory_format=order)
