"""Patches and position embeddings of a plain ViT, in 2D and 3D."""

from collections.abc import Sequence

import torch
from mmcv.cnn import build_conv_layer
from torch import Tensor, nn

from .rank import conv_cfg, resize_smooth


class PatchEmbed(nn.Module):
    """Project each patch to a token; key ``proj``, as in timm.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of a token.
        patch_size: Edge of a patch an axis, in pixels.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, *, patch_size: Sequence[int]
    ) -> None:
        super().__init__()
        self.proj = build_conv_layer(
            conv_cfg(len(patch_size)),
            in_channels,
            embed_dims,
            kernel_size=tuple(patch_size),
            stride=tuple(patch_size),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, embed_dims, *grid)`` for ``(N, in_channels, *S)``."""
        return self.proj(x)


def resample_position_embedding(
    pos_embed: Tensor,
    grid: Sequence[int],
    new_grid: Sequence[int],
    num_prefix_tokens: int = 1,
) -> Tensor:
    """Resample a learned position embedding to another grid.

    Bicubic in 2D, as in DeiT, timm and transformers; trilinear in 3D. The
    prefix (class token) positions are kept.

    Args:
        pos_embed: ``(1, num_prefix_tokens + prod(grid), C)``.
        grid: Patches an axis it was made for.
        new_grid: Patches an axis that are wanted.
        num_prefix_tokens: Positions before the grid.

    Returns:
        ``(1, num_prefix_tokens + prod(new_grid), C)``.
    """
    if tuple(grid) == tuple(new_grid):
        return pos_embed
    prefix = pos_embed[:, :num_prefix_tokens]
    field = pos_embed[:, num_prefix_tokens:].mT.unflatten(2, tuple(grid))
    field = resize_smooth(field.float(), new_grid).to(pos_embed.dtype)
    return torch.cat([prefix, field.flatten(2).mT], dim=1)
