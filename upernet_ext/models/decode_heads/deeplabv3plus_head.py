"""The head of DeepLabV3+.

Paper: Encoder-Decoder with Atrous Separable Convolution for Semantic Image
Segmentation, https://arxiv.org/abs/1802.02611, section 3. Function and
parameter names are mmsegmentation's ``DepthwiseSeparableASPPHead``
(mmseg/models/decode_heads/sep_aspp_head.py), whose published checkpoints load
as they are.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...layers.aspp import ASPP, separable_conv_module
from ...layers.pyramid_pooling import ClippedAvgPool
from ...layers.rank import conv_module, resize
from ...layers.upsampled_conv import UpsampledConvModule
from ...registry import MODELS
from .decode_head import DecodeHead, checked_depth


@MODELS.register_module()
class DeepLabV3PlusHead(DecodeHead):
    """Atrous pyramid pooling on a deep level, refined by a fine one.

    Args:
        in_channels: Channels of the fine and of the deep level.
        channels: Channels of the head.
        in_index: The two levels. A segmentor fills both in by
            ``select_levels``, whose options may stand in the head's config.
        dilations: Of the branches on the deep level, in pixels of its map,
            as in mmseg: 1, which is a 1-wide convolution, then the 3-wide
            ones. (1, 12, 24, 36) is the paper's for stride 8, and
            (1, 6, 12, 18) for stride 16.
        rates: ``'adaptive'`` shrinks the dilations along the axes on which
            the largest would find padding only (``rank.fitted_dilation``);
            ``'fixed'`` never does (mmseg, medicai). Both are the same on maps
            longer than the largest dilation.
        separable: Separable convolutions in the pyramid pooling; those of
            the decoder are separable in any case.
        aspp_dropout: Of single values, behind the pyramid pooling.
        c1_channels: Channels of the fine level in the fusion.
        flow: ``'mmseg'`` or ``'medicai'``. medicai's fuses the branches by a
            1-wide instead of a 3-wide convolution, leaves out norm and
            activation between the two halves of a separable convolution, and
            has one separable convolution before the resize and one behind
            the fusion instead of two behind it. Parameters differ in shape.
        **kwargs: To ``DecodeHead``: ``num_classes``, ``spatial_dims``,
            ``norm_cfg``, ``dropout_ratio``, ``loss_decode``, ...

    Raises:
        ValueError: An option that is none of the above, or other than two
            levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        in_index: Sequence[int] = (0, -1),
        dilations: Sequence[int] = (1, 12, 24, 36),
        rates: str = 'adaptive',
        separable: bool = True,
        aspp_dropout: float = 0.0,
        c1_channels: int = 48,
        flow: str = 'mmseg',
        **kwargs,
    ) -> None:
        _check(in_channels, in_index, dilations, rates=rates, flow=flow)
        super().__init__(
            list(in_channels),
            channels,
            in_index=list(in_index),
            input_transform='multiple_select',
            **kwargs,
        )
        fine, deep = in_channels
        self.flow = flow
        mmseg = flow == 'mmseg'
        self.image_pool = nn.Sequential(ClippedAvgPool(1), self._conv(deep, 1))
        self.aspp_modules = ASPP(
            dilations,
            deep,
            channels,
            spatial_dims=self.spatial_dims,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
            separable=separable,
            adaptive=rates == 'adaptive',
            between=mmseg,
        )
        self.bottleneck = self._conv(
            (len(dilations) + 1) * channels,
            3 if mmseg else 1,
            kind=UpsampledConvModule,
            align_corners=self.align_corners,
        )
        self.aspp_dropout = nn.Dropout(aspp_dropout)
        self.c1_bottleneck = conv_module(
            fine,
            c1_channels,
            1,
            spatial_dims=self.spatial_dims,
            norm=self.norm_cfg,
            act=self.act_cfg,
        )
        fused = channels + c1_channels
        widths = (fused, channels) if mmseg else (channels, fused)
        self.sep_bottleneck = nn.Sequential(
            *(
                separable_conv_module(
                    width,
                    channels,
                    spatial_dims=self.spatial_dims,
                    norm=self.norm_cfg,
                    act=self.act_cfg,
                    between=mmseg,
                )
                for width in widths
            )
        )

    @staticmethod
    def select_levels(
        strides: Sequence[Sequence[float]],
        *,
        encoder_depth: int | None = None,
        low_level: str = 'stride4',
    ) -> list[int]:
        """Choose the levels that a segmentor gives this head.

        Args:
            strides: Of the backbone's or neck's levels, finest first.
            encoder_depth: 3 to 5: the deep level is ``P[encoder_depth]``; by
                default the last.
            low_level: The fine level: ``'stride4'`` for the first one at
                stride 4 (on its coarsest axis; between 2.8 and 5.7), as in
                the paper, or a name such as ``'P2'``, which medicai takes
                whatever its stride.

        Returns:
            The indices of the fine and the deep level.

        Raises:
            ValueError: There is no such level before the deep one.
        """
        deep = checked_depth(encoder_depth, len(strides)) - 1
        names = {f'P{i + 1}': i for i in range(deep)}
        if low_level != 'stride4' and low_level not in names:
            raise ValueError(
                f"low_level must be 'stride4' or one of {list(names)}, the "
                f'levels before P{deep + 1}, got {low_level!r}'
            )
        if low_level in names:
            return [names[low_level], deep]
        for i in range(deep):
            if round(math.log2(max(strides[i]))) == 2:
                return [i, deep]
        raise ValueError(
            f"low_level='stride4', but the levels before P{deep + 1} are at "
            f'strides {[tuple(s) for s in strides[:deep]]}; name one, such as '
            f"low_level='P1', or give the backbone a neck that makes a pyramid"
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Pool the deep level, refine by the fine one, classify.

        Args:
            inputs: The backbone's or neck's maps ``(N, C_i, *S_i)``; the two
                of ``in_index`` are taken.

        Returns:
            Logits ``(N, num_classes, *S)``, at the fine level's size.

        Raises:
            ValueError: A map has other channels than ``in_channels``.
        """
        fine, deep = self._transform_inputs(inputs)
        found = [fine.shape[1], deep.shape[1]]
        if found != self.in_channels:
            raise ValueError(
                f'DeepLabV3PlusHead was built for in_channels='
                f'{self.in_channels}, but the maps {self.in_index} have '
                f'{found}; build it with those, or change in_index'
            )
        x = self._pool(deep)
        decode = self.sep_bottleneck
        if self.flow == 'medicai':
            before, decode = self.sep_bottleneck
            x = before(x)
        fine = self.c1_bottleneck(fine)
        x = resize(x, fine.shape[2:], self.align_corners)
        return self.cls_seg(decode(torch.cat([x, fine], dim=1)))

    def _pool(self, x: Tensor) -> Tensor:
        branches = [self.image_pool(x), *self.aspp_modules(x)]
        return self.aspp_dropout(self.bottleneck(branches, x.shape[2:]))


def _check(
    in_channels: Sequence[int],
    in_index: Sequence[int],
    dilations: Sequence[int],
    *,
    rates: str,
    flow: str,
) -> None:
    """Refuse arguments that make no head, or another one than is meant."""
    for levels in (in_channels, in_index):
        if not isinstance(levels, Sequence) or len(levels) != 2:
            raise ValueError(
                'DeepLabV3PlusHead takes two levels, a fine and a deep one, '
                f'got in_channels={in_channels} and in_index={in_index}; a '
                'segmentor fills both in where the config is silent'
            )
    if dilations[0] != 1 or min(dilations[1:], default=0) < 2:
        raise ValueError(
            'dilations must be 1 (a 1-wide convolution), then those of the '
            f'dilated ones, such as (1, 12, 24, 36), got {tuple(dilations)}'
        )
    if rates not in ('adaptive', 'fixed'):
        raise ValueError(f"rates must be 'adaptive' or 'fixed', got {rates!r}")
    if flow not in ('mmseg', 'medicai'):
        raise ValueError(f"flow must be 'mmseg' or 'medicai', got {flow!r}")
