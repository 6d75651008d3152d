"""The head of UPerNet.

Paper: Unified Perceptual Parsing for Scene Understanding,
https://arxiv.org/abs/1807.10221, section 3.1. Function and parameter names
are mmsegmentation's (mmseg/models/decode_heads/uper_head.py), whose published
checkpoints load as they are.
"""

from collections.abc import Mapping, Sequence

from mmseg.structures import SegDataSample
from torch import Tensor, nn

from ...layers.pyramid_pooling import PPM
from ...layers.rank import conv, resize
from ...layers.upsampled_conv import UpsampledConvModule
from ...registry import MODELS
from .decode_head import DecodeHead, checked_depth


def supervision_weights(num_levels: int) -> list[float]:
    """Weigh the losses of the levels, finest first.

    Each is half of the one before, and their sum is 1: 8/15, 4/15, 2/15 and
    1/15 of four. nnU-Net halves them too, and leaves out its coarsest map;
    UPerNet's, which the pyramid pooling made, is kept.
    """
    halved = [0.5**i for i in range(num_levels)]
    return [weight / sum(halved) for weight in halved]


@MODELS.register_module()
class UPerHead(DecodeHead):
    """Pyramid pooling on the deepest level, a feature pyramid, one fusion.

    Args:
        in_channels: Channels of each level, finest first.
        channels: Channels of the head.
        top_down: What the top-down path carries: ``'lateral'``, the sums
            before their 3x3 convolution (mmseg, transformers), or
            ``'fused'``, after it (medicai). Parameters are the same.
        pool_scales: Cells an axis of the pyramid pooling.
        deep_supervision: Classify the levels behind the finest too, by a 1x1
            convolution each, and compare them with the labels at full size;
            see ``supervision_weights``. In training only.
        in_index: Levels to take; by default all of ``in_channels``. A
            segmentor fills both in by ``select_levels``, whose options may
            stand in the head's config.
        **kwargs: To ``DecodeHead``: ``num_classes``, ``spatial_dims``,
            ``norm_cfg``, ``dropout_ratio``, ``loss_decode``, ...
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        *,
        top_down: str = 'lateral',
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        deep_supervision: bool = False,
        in_index: Sequence[int] | None = None,
        **kwargs,
    ) -> None:
        if top_down not in ('lateral', 'fused'):
            raise ValueError(
                f"top_down must be 'lateral' or 'fused', got {top_down!r}"
            )
        in_channels = list(in_channels)
        super().__init__(
            in_channels,
            channels,
            in_index=list(in_index or range(len(in_channels))),
            input_transform='multiple_select',
            **kwargs,
        )
        self.top_down = top_down
        self.psp_modules = PPM(
            pool_scales,
            in_channels[-1],
            channels,
            spatial_dims=self.spatial_dims,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg,
            align_corners=self.align_corners,
        )
        upsampled = dict(
            kind=UpsampledConvModule, align_corners=self.align_corners
        )
        self.bottleneck = self._conv(
            in_channels[-1] + len(pool_scales) * channels, 3, **upsampled
        )
        # The deepest level has the pyramid pooling in place of both.
        self.lateral_convs = nn.ModuleList(
            self._conv(c, 1, inplace=False) for c in in_channels[:-1]
        )
        self.fpn_convs = nn.ModuleList(
            self._conv(channels, 3, inplace=False) for _ in in_channels[:-1]
        )
        self.fpn_bottleneck = self._conv(
            len(in_channels) * channels, 3, **upsampled
        )
        self.deep_supervision = deep_supervision
        if deep_supervision:
            self.level_classifiers = nn.ModuleList(
                conv(
                    channels,
                    self.out_channels,
                    1,
                    spatial_dims=self.spatial_dims,
                )
                for _ in in_channels[1:]
            )

    @staticmethod
    def select_levels(
        strides: Sequence[Sequence[float]], *, encoder_depth: int | None = None
    ) -> list[int]:
        """Choose the levels that a segmentor gives this head.

        Of five levels the finest is left out: PPM on P5, FPN on P4, P3, P2.

        Args:
            strides: Of the backbone's or neck's levels, finest first.
            encoder_depth: Levels to use, counted from the finest.

        Returns:
            Their indices, finest first.
        """
        depth = checked_depth(encoder_depth, len(strides))
        return list(range(max(0, len(strides) - 4), depth))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Fuse the levels and classify every pixel or voxel.

        Args:
            inputs: The backbone's or neck's maps ``(N, C_i, *S_i)``; those
                of ``in_index`` are taken.

        Returns:
            Logits ``(N, num_classes, *S_0)``, at the finest level's stride.

        Raises:
            ValueError: A map has other channels than ``in_channels``.
        """
        return self._classify(self._pyramid(self._selected(inputs)))

    def loss(
        self,
        inputs: Sequence[Tensor],
        batch_data_samples: Sequence[SegDataSample],
        train_cfg: Mapping | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses, with deep supervision of every level.

        Args:
            inputs: As ``forward``.
            batch_data_samples: With ``gt_sem_seg``.
            train_cfg: Not used.

        Returns:
            ``loss_ce`` of the result, ``loss_ce_level1`` of the level behind
            the finest and so on, all weighted; ``acc_seg`` of the result.
        """
        if not self.deep_supervision:
            return super().loss(inputs, batch_data_samples, train_cfg)
        levels = self._pyramid(self._selected(inputs))
        labels = self._stack_batch_gt(batch_data_samples)
        weights = supervision_weights(len(levels))
        losses = self.loss_by_feat(self._classify(levels), batch_data_samples)
        for name in losses.keys() - {'acc_seg'}:
            losses[name] = weights[0] * losses[name]
        for i, classifier in enumerate(self.level_classifiers, start=1):
            found = self._compare(classifier(levels[i]), labels)
            for name, value in found.items():
                losses[f'{name}_level{i}'] = weights[i] * value
        return losses

    def _selected(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        features = self._transform_inputs(inputs)
        found = [x.shape[1] for x in features]
        if found != list(self.in_channels):
            raise ValueError(
                f'UPerHead was built for in_channels={self.in_channels}, but '
                f'the maps have {found}; build it with those, or set the '
                "neck's out_channels"
            )
        return features

    def _classify(self, levels: Sequence[Tensor]) -> Tensor:
        """Fuse the pyramid at its finest level, and classify."""
        return self.cls_seg(self.fpn_bottleneck(levels))

    def _pyramid(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Run the top-down path; return one map a level, finest first."""
        path = self._pool(features[-1])
        levels = [path]
        for feature, lateral_conv, fpn_conv in zip(
            reversed(features[:-1]),
            reversed(self.lateral_convs),
            reversed(self.fpn_convs),
            strict=True,
        ):
            total = self._add(lateral_conv(feature), path)
            level = fpn_conv(total)
            path = level if self.top_down == 'fused' else total
            levels.insert(0, level)
        return levels

    def _pool(self, x: Tensor) -> Tensor:
        return self.bottleneck([x, *self.psp_modules.pool(x)])

    def _add(self, lateral: Tensor, path: Tensor) -> Tensor:
        return lateral + resize(path, lateral.shape[2:], self.align_corners)
