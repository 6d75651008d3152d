"""Volumes through a 2D network, slice by slice.

The network is what it was, with the names of its parameters: published
weights, low-rank adapters, layer decay and receipts find what they know. New
are ``z_convs``, one convolution along the slices a level, which start as
nothing.
"""

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ...layers.maps import as_maps
from ...layers.rank import conv
from .halvings import ISOTROPIC, Halvings, depth_stride
from .rules import SLICE_BATCH

# What a published file lacks, and what is trained where the rest is frozen.
Z_CONVS = 'z_convs.'
# Slices that a convolution along z sees.
_REACH = 3


class Slicewise:
    """What a backbone's class becomes a subclass of.

    Attributes:
        added_keys: Prefixes of the parameters that no 2D network has.
        input_multiple: Voxels an axis that the input should be a multiple of
            (a plain ViT's patches); ``None`` where it does not matter.
        slice_batch: Slices at a time.
        z_convs: A depthwise convolution along z for each level.
        z_strides: Slices that are averaged to one, of each level.
    """

    added_keys = (Z_CONVS,)
    input_multiple: tuple[int, ...] | None
    slice_batch: int
    z_convs: nn.ModuleList
    z_strides: tuple[int, ...]

    def init_weights(self) -> None:
        """Initialise the 2D network; along z nothing happens at first."""
        if hasattr(super(), 'init_weights'):
            super().init_weights()
        self._reset_z()

    def _reset_z(self) -> None:
        for layer in self.z_convs:
            nn.init.zeros_(layer.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode volumes.

        Args:
            x: ``(N, in_channels, D, H, W)``, normalised; any D.

        Returns:
            One map a level: ``(N, C_i, ceil(D / z_strides[i]), *S_i)``.
        """
        encode, name = super().forward, type(self).__name__
        slices = x.transpose(1, 2).flatten(0, 1)
        # Pieces of like size: batch norm needs more than one slice.
        pieces = slices.tensor_split(math.ceil(len(slices) / self.slice_batch))
        levels = zip(*(as_maps(encode(p), name) for p in pieces), strict=True)
        return tuple(
            self._mix(torch.cat(maps).unflatten(0, (len(x), -1)), level)
            for level, maps in enumerate(levels)
        )

    def _mix(self, maps: Tensor, level: int) -> Tensor:
        """Lead a level's slices ``(N, D, C, *S)`` together."""
        x = maps.transpose(1, 2)
        x = x + self.z_convs[level](x)
        window = (min(self.z_strides[level], x.shape[2]), 1, 1)
        return F.avg_pool3d(x, window, ceil_mode=True, count_include_pad=False)


@functools.cache
def _slicewise_class(cls: type) -> type:
    # Under its own name: key maps and messages go by the library's class.
    names = dict(__module__=cls.__module__, __doc__=cls.__doc__)
    return type(cls.__name__, (Slicewise, cls), names)


def slicewise(
    backbone: nn.Module,
    *,
    channels: Sequence[int],
    strides: Sequence[Sequence[float]],
    halvings: Halvings = ISOTROPIC,
    slice_batch: int = SLICE_BATCH,
) -> nn.Module:
    """Let a network for images take volumes.

    Args:
        backbone: For images; changed in place.
        channels: Channels of each of its levels.
        strides: ``(y, x)`` of each level, in pixels.
        halvings: See ``plan_halvings``; z is averaged where it is halved.
        slice_batch: Slices that pass through the network at a time.

    Returns:
        The backbone, of a subclass of its class and of ``Slicewise``.
    """
    backbone.__class__ = _slicewise_class(type(backbone))
    backbone.slice_batch = slice_batch
    backbone.z_strides = tuple(depth_stride(s, halvings) for s in strides)
    backbone.z_convs = nn.ModuleList(
        conv(c, c, (_REACH, 1, 1), spatial_dims=3, groups=c, bias=False)
        for c in channels
    )
    backbone._reset_z()
    backbone.out_channels = tuple(channels)
    backbone.out_strides = tuple(
        (z, *stride)
        for z, stride in zip(backbone.z_strides, strides, strict=True)
    )
    patch = getattr(backbone, 'patch_size', None)
    plain = isinstance(patch, tuple) and len(patch) == 2
    backbone.input_multiple = (
        (max(backbone.z_strides), *patch) if plain else None
    )
    optional = getattr(backbone, 'optional_pretrained_keys', ())
    backbone.optional_pretrained_keys = (*optional, Z_CONVS)
    return backbone
