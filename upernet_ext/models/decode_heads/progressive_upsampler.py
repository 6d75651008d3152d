"""Refine features while they are enlarged, before they are classified.

It serves plain ViTs without a neck, whose maps are all at the patch stride: a
head's logits would be 16 times smaller than the image.

A 1x1 convolution commutes with a linear resize, because the weights of a
resize sum to 1: logits made here and then resized to the image are those that
features resized to the image would give, at a fraction of the memory.
"""

from torch import Tensor, nn

from ...layers.rank import (
    channel_dropout,
    check_spatial_dims,
    conv_module,
    resize,
)


class ProgressiveUpsampler(nn.Sequential):
    """Stages that each double the map: resize, convolve, drop, convolve.

    A stage is a linear resize by 2, a 3x3 convolution with group norm and
    ReLU, a dropout of whole channels, and another such convolution. Channels
    stay.

    Args:
        channels: Of the map.
        num_stages: Of them; the map becomes ``2 ** num_stages`` times larger
            along every axis.
        dropout_ratio: Of whole channels.
        num_groups: Of the group norms; by default the most, up to 32, that
            divide the channels.
        spatial_dims: 2 or 3.
        align_corners: Of the resize.
    """

    def __init__(
        self,
        channels: int,
        *,
        num_stages: int = 2,
        dropout_ratio: float = 0.1,
        num_groups: int | None = None,
        spatial_dims: int = 2,
        align_corners: bool = False,
    ) -> None:
        check_spatial_dims(spatial_dims)

        def conv() -> nn.Module:
            return conv_module(
                channels,
                channels,
                3,
                spatial_dims=spatial_dims,
                norm=dict(type='GN', num_groups=num_groups),
                act=dict(type='ReLU'),
            )

        super().__init__(
            *(
                nn.Sequential(
                    _Double(align_corners),
                    conv(),
                    channel_dropout(spatial_dims, dropout_ratio),
                    conv(),
                )
                for _ in range(num_stages)
            )
        )


class _Double(nn.Module):
    """Enlarge ``(N, C, *S)`` to ``(N, C, *2 S)``."""

    def __init__(self, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners

    def forward(self, x: Tensor) -> Tensor:
        return resize(x, [2 * s for s in x.shape[2:]], self.align_corners)
