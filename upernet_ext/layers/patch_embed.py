"""Patches and position embeddings of a plain ViT, in 2D and 3D."""

import math
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
    *,
    antialias: bool = False,
) -> Tensor:
    """Resample a learned position embedding to another grid.

    Bicubic in 2D, as in DeiT, timm and transformers; trilinear in 3D. The
    prefix (class token) positions are kept. (The code of DINO and of DINOv2
    without registers stretches the grid by a tenth of a patch; transformers'
    does not.)

    Args:
        pos_embed: ``(1, num_prefix_tokens + prod(grid), C)``.
        grid: Patches an axis it was made for.
        new_grid: Patches an axis that are wanted.
        num_prefix_tokens: Positions before the grid.
        antialias: Average where the new grid is coarser (2D only).

    Returns:
        ``(1, num_prefix_tokens + prod(new_grid), C)``.
    """
    if tuple(grid) == tuple(new_grid):
        return pos_embed
    prefix = pos_embed[:, :num_prefix_tokens]
    field = pos_embed[:, num_prefix_tokens:].mT.unflatten(2, tuple(grid))
    field = resize_smooth(field.float(), new_grid, antialias=antialias)
    field = field.to(pos_embed.dtype)
    return torch.cat([prefix, field.flatten(2).mT], dim=1)


def resample_patch_embedding(
    weight: Tensor, patch_size: Sequence[int]
) -> Tensor:
    """Make the kernel of another patch size with the same response.

    The least-squares solution of "a resized patch gives the same token":
    FlexiViT, https://arxiv.org/abs/2212.08013, section 3.4.

    Args:
        weight: ``(embed_dims, in_channels, *old patch)``.
        patch_size: Edge of the new patch an axis.

    Returns:
        ``(embed_dims, in_channels, *patch_size)``.
    """
    old = weight.shape[2:]
    if tuple(old) == tuple(patch_size):
        return weight
    pixels = torch.eye(math.prod(old), device=weight.device)
    pixels = pixels.unflatten(1, (1, *old))
    resized = resize_smooth(pixels, patch_size, antialias=True).flatten(1)
    kernels = weight.float().flatten(2) @ torch.linalg.pinv(resized).T
    return kernels.unflatten(2, tuple(patch_size)).to(weight.dtype)
