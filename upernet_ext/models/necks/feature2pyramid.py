"""Make a pyramid of a plain ViT's maps by transposed convolutions.

From BEiT's segmentation models, https://arxiv.org/abs/2106.08254, with the
parameter names and the function of mmsegmentation
(mmseg/models/necks/featurepyramid.py).
"""

from collections.abc import Sequence

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from ...layers.rank import double, max_pool, norm_cfg
from ...registry import MODELS
from ..backbones import Levels

_OPERATIONS = {
    4: 'upsample_4x',
    2: 'upsample_2x',
    1: 'identity',
    0.5: 'downsample_2x',
    0.25: 'downsample_4x',
}


@MODELS.register_module()
class Feature2Pyramid(BaseModule):
    """Double, keep or pool each map; the channels stay.

    Args:
        in_channels: Channels of each map.
        rescales: Factor of each level's size: 4, 2, 1, 0.5 or 0.25.
        spatial_dims: 2 or 3.
        norm_cfg: mmcv's norm config, between the two doublings of factor 4.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: An unknown factor, or not one map a factor, or maps of
            different channels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        rescales: Sequence[float] = (4, 2, 1, 0.5),
        *,
        spatial_dims: int = 2,
        norm_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if len(set(in_channels)) != 1 or len(in_channels) != len(rescales):
            raise ValueError(
                f'Feature2Pyramid needs {len(rescales)} maps of equal '
                f'channels (rescales={tuple(rescales)}), but the backbone '
                f'gives {tuple(in_channels)}; set its out_indices'
            )
        if not set(rescales) <= set(_OPERATIONS):
            raise ValueError(
                f'rescales={tuple(rescales)}: each must be one of '
                f'{sorted(_OPERATIONS, reverse=True)}'
            )
        self.in_channels = tuple(in_channels)
        self.rescales = tuple(rescales)
        norm_cfg = norm_cfg or dict(type='SyncBN')
        for rescale in self.rescales:
            operation = self._build(
                rescale, in_channels[0], spatial_dims, norm_cfg
            )
            self.add_module(_OPERATIONS[rescale], operation)

    @staticmethod
    def _build(
        rescale: float, channels: int, spatial_dims: int, norm: dict
    ) -> nn.Module:
        if rescale == 4:
            return nn.Sequential(
                double(channels, spatial_dims),
                build_norm_layer(norm_cfg(norm, spatial_dims), channels)[1],
                nn.GELU(),
                double(channels, spatial_dims),
            )
        if rescale == 2:
            return nn.Sequential(double(channels, spatial_dims))
        if rescale == 1:
            return nn.Identity()
        return max_pool(spatial_dims, round(1 / rescale))

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Return ``(N, C, *(S * rescale))`` a level.

        Args:
            features: One map a level: ``(N, C, *S_i)``.
        """
        if len(features) != len(self.rescales):
            raise ValueError(
                f'Feature2Pyramid needs {len(self.rescales)} maps (rescales='
                f"{self.rescales}), got {len(features)}; set the backbone's "
                'out_indices to that many levels'
            )
        return tuple(
            getattr(self, _OPERATIONS[rescale])(x)
            for rescale, x in zip(self.rescales, features, strict=True)
        )

    def output_levels(self, levels: Levels) -> Levels:
        """Tell the channels and strides that it makes of ``levels``."""
        return Levels(
            levels.channels,
            tuple(
                tuple(s / rescale for s in stride)
                for stride, rescale in zip(
                    levels.strides, self.rescales, strict=True
                )
            ),
        )
