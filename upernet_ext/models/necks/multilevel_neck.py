"""Make a pyramid of a plain ViT's maps by resizing and convolving.

Introduced with SETR's ViT backbones in mmsegmentation
(mmseg/models/necks/multilevel_neck.py), whose parameter names and function
are kept.
"""

from collections.abc import Sequence

from mmcv.cnn import ConvModule
from mmengine.model import BaseModule, xavier_init
from torch import Tensor, nn

from ...layers.rank import conv_module
from ...layers.upsampled_conv import UpsampledConvModule
from ...registry import MODELS
from ..backbones import Levels


@MODELS.register_module()
class MultiLevelNeck(BaseModule):
    """1x1 convolution, resize by a scale, 3x3 convolution, level by level.

    Args:
        in_channels: Channels of each map; a single map serves every scale.
        out_channels: Channels of every level.
        scales: Factor of each level's size.
        spatial_dims: 2 or 3.
        norm_cfg: mmcv's norm config; none by default.
        act_cfg: mmcv's activation config; none by default.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: Neither one map nor one a scale.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        scales: Sequence[float] = (4, 2, 1, 0.5),
        spatial_dims: int = 2,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(in_channels) not in (1, len(scales)):
            raise ValueError(
                f'MultiLevelNeck makes {len(scales)} levels (scales='
                f'{tuple(scales)}) of one map or of as many, but the backbone '
                f'gives {len(in_channels)}; set its out_indices'
            )
        self.in_channels = tuple(in_channels)
        self.out_channels = out_channels
        self.scales = tuple(scales)

        def convs(
            channels: Sequence[int], kernel_size: int, **kwargs
        ) -> nn.ModuleList:
            return nn.ModuleList(
                conv_module(
                    c,
                    out_channels,
                    kernel_size,
                    spatial_dims=spatial_dims,
                    norm=norm_cfg,
                    act=act_cfg,
                    **kwargs,
                )
                for c in channels
            )

        self.lateral_convs = convs(self.in_channels, 1)
        self.convs = convs(
            [out_channels] * len(self.scales), 3, kind=UpsampledConvModule
        )

    def init_weights(self) -> None:
        """Xavier uniform for the convolutions, as mmsegmentation."""
        super().init_weights()
        for module in self.modules():
            if isinstance(module, ConvModule):
                xavier_init(module.conv, distribution='uniform')

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return ``(N, out_channels, *(S * scale))`` a scale.

        Args:
            features: One map a level: ``(N, in_channels[i], *S_i)``.
        """
        if len(features) != len(self.in_channels):
            raise ValueError(
                f'MultiLevelNeck needs {len(self.in_channels)} maps '
                f'(in_channels={self.in_channels}), got {len(features)}; set '
                "the backbone's out_indices to that many levels"
            )
        laterals = [
            conv(x)
            for conv, x in zip(self.lateral_convs, features, strict=True)
        ]
        if len(laterals) == 1:
            laterals = laterals * len(self.scales)
        return tuple(
            conv(x, [max(1, int(s * scale)) for s in x.shape[2:]])
            for conv, x, scale in zip(
                self.convs, laterals, self.scales, strict=True
            )
        )

    def output_levels(self, levels: Levels) -> Levels:
        """Tell the channels and strides that it makes of ``levels``."""
        strides = levels.strides
        if len(strides) == 1:
            strides = strides * len(self.scales)
        return Levels(
            (self.out_channels,) * len(self.scales),
            tuple(
                tuple(s / scale for s in stride)
                for stride, scale in zip(strides, self.scales, strict=True)
            ),
        )
