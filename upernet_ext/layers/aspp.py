"""Atrous spatial pyramid pooling.

Paper: Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation, https://arxiv.org/abs/1802.02611, section 3.1. Parameter names
are those of mmsegmentation's ``DepthwiseSeparableASPPModule``
(mmseg/models/decode_heads/sep_aspp_head.py).
"""

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from .rank import conv_module


def separable_conv_module(
    in_channels: int,
    out_channels: int,
    *,
    spatial_dims: int,
    norm: dict | None,
    act: dict | None,
    dilation: int = 1,
    largest_dilation: int | None = None,
    between: bool = True,
) -> nn.Sequential:
    """Build a 3-wide convolution of each channel, then a 1-wide one of all.

    As mmcv's ``DepthwiseSeparableConvModule``, whose names it has.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        spatial_dims: 2 or 3.
        norm: mmcv's ``norm_cfg``, of any rank.
        act: mmcv's ``act_cfg``.
        dilation: Distance between taps, in pixels.
        largest_dilation: See ``rank.conv_cfg``.
        between: Normalise and activate between the two convolutions too;
            else the first one has no bias either.
    """
    depthwise_conv = conv_module(
        in_channels,
        in_channels,
        3,
        spatial_dims=spatial_dims,
        norm=norm if between else None,
        act=act if between else None,
        dilation=dilation,
        largest_dilation=largest_dilation,
        groups=in_channels,
        bias='auto' if between else False,
    )
    pointwise_conv = conv_module(
        in_channels,
        out_channels,
        1,
        spatial_dims=spatial_dims,
        norm=norm,
        act=act,
    )
    return nn.Sequential(
        OrderedDict(
            depthwise_conv=depthwise_conv, pointwise_conv=pointwise_conv
        )
    )


class ASPP(nn.ModuleList):
    """Look at a map with convolutions of several dilations, side by side.

    Args:
        dilations: Of the branches, in pixels; 1 is a 1-wide convolution,
            the others are 3 wide.
        in_channels: Channels of the map.
        channels: Channels of each branch.
        spatial_dims: 2 or 3.
        norm_cfg: mmcv's norm config.
        act_cfg: mmcv's activation config.
        separable: Dilated convolutions of each channel by itself, each
            followed by a 1-wide one.
        adaptive: Fit the dilations to each map by ``rank.fitted_dilation``.
        between: Normalise and activate between the two convolutions of a
            separable one.
    """

    def __init__(
        self,
        dilations: Sequence[int],
        in_channels: int,
        channels: int,
        *,
        spatial_dims: int,
        norm_cfg: dict | None,
        act_cfg: dict | None,
        separable: bool = True,
        adaptive: bool = True,
        between: bool = True,
    ) -> None:
        super().__init__()
        common = dict(spatial_dims=spatial_dims, norm=norm_cfg, act=act_cfg)
        largest = max(dilations) if adaptive else None
        for dilation in dilations:
            dilated = dict(common, dilation=dilation, largest_dilation=largest)
            if dilation == 1:
                branch = conv_module(in_channels, channels, 1, **common)
            elif separable:
                branch = separable_conv_module(
                    in_channels, channels, between=between, **dilated
                )
            else:
                branch = conv_module(in_channels, channels, 3, **dilated)
            self.append(branch)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return one ``(N, channels, *S)`` a branch, for ``x`` (N, C, *S)."""
        return [branch(x) for branch in self]
