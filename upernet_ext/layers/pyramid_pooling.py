"""Pyramid pooling module.

Paper: Pyramid Scene Parsing Network, https://arxiv.org/abs/1612.01105,
section 3.2. The order (pool, convolve, resize) and the parameter names are
those of mmsegmentation's ``PPM`` (mmseg/models/decode_heads/psp_head.py).
"""

from collections.abc import Sequence

from torch import Tensor, nn

from .rank import adaptive_avg_pool, conv_module, resize


class ClippedAvgPool(nn.Module):
    """Average ``(N, C, *S)`` over ``scale`` cells an axis, at most ``S``.

    A map with fewer pixels than cells cannot say more than its pixels do, so
    the grid is clipped to the map (``(3, 4)`` cells for scale 6 and a map of
    3 x 4).
    """

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, C, *min(scale, S))``."""
        return adaptive_avg_pool(x, [min(self.scale, s) for s in x.shape[2:]])

    def extra_repr(self) -> str:
        """Show the number of cells."""
        return f'scale={self.scale}'


class PPM(nn.ModuleList):
    """Describe a map at several scales, each resized back to the map.

    Args:
        pool_scales: Cells an axis, one branch each.
        in_channels: Channels of the map.
        channels: Channels of each branch.
        spatial_dims: 2 or 3.
        norm_cfg: mmcv's norm config.
        act_cfg: mmcv's activation config.
        align_corners: Of the resize back.
    """

    def __init__(
        self,
        pool_scales: Sequence[int],
        in_channels: int,
        channels: int,
        *,
        spatial_dims: int,
        norm_cfg: dict | None,
        act_cfg: dict | None,
        align_corners: bool = False,
    ) -> None:
        super().__init__(
            nn.Sequential(
                ClippedAvgPool(scale),
                conv_module(
                    in_channels,
                    channels,
                    1,
                    spatial_dims=spatial_dims,
                    norm=norm_cfg,
                    act=act_cfg,
                ),
            )
            for scale in pool_scales
        )
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one ``(N, channels, *S)`` a scale, for ``x`` (N, C, *S)."""
        size = x.shape[2:]
        return [
            resize(pooled, size, self.align_corners) for pooled in self.pool(x)
        ]

    def pool(self, x: Tensor) -> list[Tensor]:
        """Return the maps of ``forward`` before their resize."""
        return [branch(x) for branch in self]
