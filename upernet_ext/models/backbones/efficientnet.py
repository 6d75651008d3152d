"""EfficientNet, EfficientNet-Lite, EfficientNetV2 and MobileNetV2, any rank.

Papers: EfficientNet, https://arxiv.org/abs/1905.11946; EfficientNetV2,
https://arxiv.org/abs/2104.00298; MobileNetV2,
https://arxiv.org/abs/1801.04381; Lite:
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
Parameter names are timm's (timm/models/efficientnet.py). Weights: Apache-2.0,
in timm's release.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

from ...layers.rank import check_spatial_dims, conv, norm
from ...registry import MODELS
from .efficientnet_presets import ARCHITECTURES, FAMILIES, Row
from .encoder import PyramidEncoder, select_levels


def round_channels(
    channels: float, *, divisor: int = 8, least: float = 0.9
) -> int:
    """Round to a multiple of ``divisor``, to no less than ``least`` of it."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor * (rounded < least * channels)


class SqueezeExcite(nn.Module):
    """Weigh the channels by what their means say.

    Args:
        channels: In and out.
        hidden: Channels between.
        spatial_dims: 2 or 3.
        act: Class of the activation between.
    """

    def __init__(
        self,
        channels: int,
        hidden: int,
        *,
        spatial_dims: int,
        act: type[nn.Module],
    ) -> None:
        super().__init__()
        self.conv_reduce = conv(channels, hidden, 1, spatial_dims=spatial_dims)
        self.act = act(inplace=True)
        self.conv_expand = conv(hidden, channels, 1, spatial_dims=spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh ``(N, C, *S)``."""
        means = x.mean(tuple(range(2, x.ndim)), keepdim=True)
        weights = self.conv_expand(self.act(self.conv_reduce(means)))
        return x * weights.sigmoid()


class Layers(NamedTuple):
    """What every layer of a network shares.

    Attributes:
        spatial_dims: 2 or 3.
        padding: ``None`` for symmetric, ``'same'`` for TensorFlow's.
        norm_cfg: mmcv's config of the norm.
        act: Class of the activation.
    """

    spatial_dims: int
    padding: str | None
    norm_cfg: dict
    act: type[nn.Module]

    def conv(
        self, in_channels: int, out_channels: int, kernel: int, **kwargs
    ) -> nn.Module:
        """Build a convolution without bias."""
        return conv(
            in_channels,
            out_channels,
            kernel,
            spatial_dims=self.spatial_dims,
            padding=self.padding,
            bias=False,
            **kwargs,
        )

    def norm(self, channels: int) -> nn.Module:
        """Build a norm."""
        return norm(self.norm_cfg, channels, self.spatial_dims)


class Block(nn.Sequential):
    """One block of any kind, around a shortcut where the size allows.

    Args:
        row: The row of the stage's table.
        in_channels: Channels in.
        channels: Channels out.
        layers: What the layers share.
        stride: Of the spatial convolution.
        dilation: Of the same.
        drop_path: Probability to skip the branch, per sample.
    """

    def __init__(
        self,
        row: Row,
        in_channels: int,
        channels: int,
        *,
        layers: Layers,
        stride: int,
        dilation: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.shortcut = stride == 1 and in_channels == channels
        self._layers, self._norms = layers, 0
        mid = round_channels(in_channels * row.expansion)
        spatial = dict(stride=stride, dilation=dilation)
        if row.kind == 'cn':
            self._add('conv', in_channels, channels, row.kernel, **spatial)
        elif row.kind == 'er':
            self._add('conv_exp', in_channels, mid, row.kernel, **spatial)
            self._add('conv_pwl', mid, channels, 1, act=False)
        else:
            # Without expansion there is no first convolution ('ds').
            if row.kind == 'ir':
                self._add('conv_pw', in_channels, mid, 1)
            self._add('conv_dw', mid, mid, row.kernel, groups=mid, **spatial)
            if row.se:
                self.se = SqueezeExcite(
                    mid,
                    round(mid * (row.se / row.expansion)),
                    spatial_dims=layers.spatial_dims,
                    act=layers.act,
                )
            last = 'conv_pwl' if row.kind == 'ir' else 'conv_pw'
            self._add(last, mid, channels, 1, act=False)
        if self.shortcut and drop_path:
            self.drop_path = DropPath(drop_path)

    def _add(
        self,
        name: str,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        act: bool = True,
        **kwargs,
    ) -> None:
        self._norms += 1
        layers = self._layers
        self.add_module(
            name, layers.conv(in_channels, out_channels, kernel, **kwargs)
        )
        self.add_module(f'bn{self._norms}', layers.norm(out_channels))
        if act:
            self.add_module(f'act{self._norms}', layers.act(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(N, C, *S)``."""
        y = super().forward(x)
        return x + y if self.shortcut else y


@MODELS.register_module()
class EfficientNet(PyramidEncoder, BaseModule):
    """The five levels of an EfficientNet or a MobileNetV2.

    The maps are the last ones before each halving, at strides 2, 4, 8, 16
    and 32.

    Args:
        arch: A name of ``ARCHITECTURES``: ``'efficientnet_b0'`` to ``b8``,
            ``'efficientnet_lite0'`` to ``lite4``, ``'efficientnet_v2_b0'`` to
            ``b3``, ``s``, ``m``, ``l``, ``'mobilenetv2_100'``, ...
        width: Factor of the channels; by default the arch's.
        depth: Factor of the blocks a stage; by default the arch's.
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        out_indices: Levels that give a map; by default all. Stages behind the
            last one are not built.
        padding: ``None`` pads both ends alike; ``'same'`` pads as TensorFlow,
            which weights converted from it need (timm's ``tf_`` models).
        norm_cfg: mmcv's config of the norms; by default BN. Weights converted
            from TensorFlow need ``dict(type='BN', eps=1e-3)``.
        output_stride: 32, or 16 or 8: later halvings become dilation.
        drop_path_rate: Stochastic depth; rises linearly from 0 to this rate
            behind the last block.
        gradient_checkpointing: Keep only each block's input in training and
            compute the block again in backward.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: An unknown ``arch``, ``padding`` or ``output_stride``.
    """

    key_family = 'efficientnet'

    def __init__(
        self,
        arch: str = 'efficientnet_b0',
        width: float | None = None,
        *,
        depth: float | None = None,
        in_channels: int = 3,
        spatial_dims: int = 2,
        out_indices: Sequence[int] | None = None,
        padding: str | None = None,
        norm_cfg: dict | None = None,
        output_stride: int = 32,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self._check(arch, padding, output_stride)
        layers = Layers(
            check_spatial_dims(spatial_dims),
            padding,
            norm_cfg or dict(type='BN'),
            FAMILIES[ARCHITECTURES[arch].family].act,
        )
        self.gradient_checkpointing = gradient_checkpointing
        stem, stages = self._plan(arch, width, depth)
        self.num_stages = len(stages)
        ends = [
            i
            for i, (row, *_) in enumerate(stages)
            if i + 1 == len(stages) or stages[i + 1][0].stride > 1
        ]
        self.out_indices = select_levels(out_indices, len(ends))
        self.stage_indices = tuple(ends[i] for i in self.out_indices)
        self.conv_stem = layers.conv(in_channels, stem, 3, stride=2)
        self.bn1 = layers.norm(stem)
        self.act = layers.act(inplace=True)
        self.blocks, strides = self._build(
            stem, stages, layers, output_stride, drop_path_rate
        )
        self.out_channels = tuple(stages[i][1] for i in self.stage_indices)
        self.out_strides = tuple(
            (strides[i],) * spatial_dims for i in self.stage_indices
        )

    @staticmethod
    def _check(arch: str, padding: str | None, output_stride: int) -> None:
        for name, value, known in (
            ('arch', arch, tuple(ARCHITECTURES)),
            ('padding', padding, (None, 'same')),
            ('output_stride', output_stride, (8, 16, 32)),
        ):
            if value not in known:
                raise ValueError(
                    f'EfficientNet has no {name} {value!r}; choose one of '
                    f'{known}'
                )

    @staticmethod
    def _plan(
        arch: str, width: float | None, depth: float | None
    ) -> tuple[int, list[tuple[Row, int, int]]]:
        """Scale a family's table: stem channels; (row, channels, blocks)."""
        sizes = ARCHITECTURES[arch]
        family = FAMILIES[sizes.family]
        width = sizes.width if width is None else width
        depth = sizes.depth if depth is None else depth

        def scaled(channels: int) -> int:
            return round_channels(
                channels * width, least=family.least_rounding
            )

        fixed = family.fixed_ends or sizes.fixed_ends
        rows = family.rows
        ends = (0, len(rows) - 1) if fixed else ()
        return family.stem if fixed else scaled(family.stem), [
            (
                row,
                scaled(row.channels),
                row.blocks if i in ends else math.ceil(row.blocks * depth),
            )
            for i, row in enumerate(rows)
        ]

    def _build(
        self,
        channels: int,
        stages: Sequence[tuple[Row, int, int]],
        layers: Layers,
        output_stride: int,
        drop_path_rate: float,
    ) -> tuple[nn.ModuleList, list[int]]:
        """Build the used stages; also tell the stride behind each."""
        total = sum(blocks for _, _, blocks in stages)
        stride, dilation, index, strides = 2, 1, 0, []
        built = nn.ModuleList()
        for row, out_channels, blocks in stages[: self.stage_indices[-1] + 1]:
            step = row.stride if stride * row.stride <= output_stride else 1
            stage = nn.Sequential()
            for i in range(blocks):
                # What was not halved is dilated from the next block on.
                stage.append(
                    Block(
                        row,
                        channels,
                        out_channels,
                        layers=layers,
                        stride=step if i == 0 else 1,
                        dilation=dilation,
                        drop_path=drop_path_rate * index / total,
                    )
                )
                if i == 0:
                    dilation *= row.stride // step
                channels, index = out_channels, index + 1
            stride *= step
            strides.append(stride)
            built.append(stage)
        return built, strides

    def init_weights(self) -> None:
        """Normal with variance 2 / fan-out, as the papers' code."""
        super().init_weights()
        for module in self.modules():
            weight = getattr(module, 'weight', None)
            if weight is not None and weight.ndim > 1:
                # Fan-out a group: (out // groups) * taps.
                fan_out = weight.numel() // weight.shape[1] // module.groups
                nn.init.normal_(weight, std=math.sqrt(2 / fan_out))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode an image.

        Args:
            x: ``(N, in_channels, *S)``, normalised.

        Returns:
            One map ``(N, C_i, *S_i)`` for each of ``out_indices``.
        """
        x = self.act(self.bn1(self.conv_stem(x)))
        maps = []
        for i, stage in enumerate(self.blocks):
            if self.gradient_checkpointing and self.training:
                x = checkpoint_sequential(
                    stage, len(stage), x, use_reentrant=False
                )
            else:
                x = stage(x)
            if i in self.stage_indices:
                maps.append(x)
        return tuple(maps)

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Tell the depth of a parameter: the stem 0, then a layer a stage.

        As mmpretrain and this package count MobileNetV2.
        """
        parts = name.split('.')
        layer = int(parts[1]) + 1 if parts[0] == 'blocks' else 0
        return layer, self.num_stages + 2

    @property
    def unused_pretrained_keys(self) -> tuple[str, ...]:
        """Prefixes in a file that this model has no use for."""
        behind = range(len(self.blocks), self.num_stages)
        return (*(f'blocks.{i}.' for i in behind), 'conv_head.', 'bn2.')
