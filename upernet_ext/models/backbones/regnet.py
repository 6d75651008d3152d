"""RegNetX and RegNetY, in 2D and 3D.

Paper: Designing Network Design Spaces, https://arxiv.org/abs/2003.13678; the
widths follow from its equations 2 to 4, the parameters are those of the
authors' release (facebookresearch/pycls, configs/dds_baselines). Parameter
names are timm's (timm/models/regnet.py). Weights: MIT, by the authors.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ...layers.rank import check_spatial_dims, conv, norm
from ...registry import MODELS
from .encoder import Encoder, timm_weights
from .residual import (
    ResidualEncoder,
    SqueezeExcite,
    build_stages,
    find_arch,
    needs_projection,
    plan_stages,
)


class Arch(NamedTuple):
    """Parameters of the linear rule of the widths.

    Attributes:
        depth: Blocks of all stages.
        first: Width of the first block, in the rule.
        slope: By which the width grows a block.
        ratio: Between the widths of stages.
        group: Channels a group of the 3x3 convolutions.
    """

    depth: int
    first: int
    slope: float
    ratio: float
    group: int


ARCHITECTURES = {
    'regnetx_002': Arch(13, 24, 36.44, 2.49, 8),
    'regnetx_004': Arch(22, 24, 24.48, 2.54, 16),
    'regnetx_006': Arch(16, 48, 36.97, 2.24, 24),
    'regnetx_008': Arch(16, 56, 35.73, 2.28, 16),
    'regnetx_016': Arch(18, 80, 34.01, 2.25, 24),
    'regnetx_032': Arch(25, 88, 26.31, 2.25, 48),
    'regnety_002': Arch(13, 24, 36.44, 2.49, 8),
    'regnety_004': Arch(16, 48, 27.89, 2.09, 8),
    'regnety_006': Arch(15, 48, 32.54, 2.32, 16),
    'regnety_008': Arch(14, 56, 38.84, 2.4, 16),
    'regnety_016': Arch(27, 48, 20.71, 2.65, 24),
    'regnety_032': Arch(21, 80, 42.63, 2.66, 24),
}
STEM_CHANNELS = 32


def _entry(arch: str) -> Encoder:
    return Encoder(
        family='regnet',
        backbone=dict(type='upernet_ext.RegNet', arch=arch),
        source='https://arxiv.org/abs/2003.13678',
        spatial_dims=(2, 3),
        weights=timm_weights(f'{arch}.pycls_in1k'),
        licence='MIT',
        reference='timm',
    )


ENCODERS = {arch: _entry(arch) for arch in ARCHITECTURES}


def stage_sizes(arch: Arch) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the width and the number of blocks of each stage.

    Widths on a line are rounded to powers of ``ratio`` times the first, then
    to multiples of 8 and at last of a group.
    """
    widths = []
    for i in range(arch.depth):
        power = round(
            math.log(1 + arch.slope * i / arch.first) / math.log(arch.ratio)
        )
        widths.append(round(arch.first * arch.ratio**power / 8) * 8)
    stages = sorted(Counter(widths).items())
    return (
        tuple(
            round(width / group) * group
            for width, group in ((w, min(arch.group, w)) for w, _ in stages)
        ),
        tuple(blocks for _, blocks in stages),
    )


class ConvNorm(nn.Sequential):
    """A convolution that keeps the size at stride 1, a norm, and ReLU.

    Args:
        in_channels: Channels in.
        channels: Channels out.
        kernel: Odd edge of the kernel.
        norm_cfg: mmcv's config of the norm.
        spatial_dims: 2 or 3.
        act: Whether there is a ReLU.
        **kwargs: To ``conv``: ``stride``, ``dilation``, ``groups``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int,
        *,
        norm_cfg: dict,
        spatial_dims: int,
        act: bool = True,
        **kwargs,
    ) -> None:
        super().__init__()
        self.conv = conv(
            in_channels,
            channels,
            kernel,
            spatial_dims=spatial_dims,
            bias=False,
            **kwargs,
        )
        self.bn = norm(norm_cfg, channels, spatial_dims)
        if act:
            self.act = nn.ReLU(inplace=True)


class Block(nn.Module):
    """1x1, grouped 3x3, (squeeze,) 1x1 convolution, around a shortcut.

    Args:
        in_channels: Channels in.
        channels: Channels out, and between.
        group: Channels a group.
        squeeze: Weigh the channels behind the 3x3 convolution (RegNetY).
        stride: Of the 3x3 convolution.
        dilations: The first is that of the 3x3 convolution.
        drop_path: Probability to skip the branch, per sample.
        norm_cfg: mmcv's config of the norms.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        group: int,
        squeeze: bool,
        stride: int,
        dilations: tuple[int, int],
        drop_path: float,
        norm_cfg: dict,
        spatial_dims: int,
    ) -> None:
        super().__init__()
        layer = partial(ConvNorm, norm_cfg=norm_cfg, spatial_dims=spatial_dims)
        self.conv1 = layer(in_channels, channels, 1)
        self.conv2 = layer(
            channels,
            channels,
            3,
            stride=stride,
            dilation=dilations[0],
            groups=max(channels // group, 1),
        )
        # A quarter of what comes into the block.
        self.se = (
            SqueezeExcite(
                channels, round(in_channels / 4), spatial_dims=spatial_dims
            )
            if squeeze
            else nn.Identity()
        )
        self.conv3 = layer(channels, channels, 1, act=False)
        self.downsample = nn.Identity()
        if needs_projection(in_channels, channels, stride, dilations):
            self.downsample = layer(
                in_channels, channels, 1, stride=stride, act=False
            )
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    @property
    def last_norm(self) -> nn.Module:
        """The norm that ends the branch."""
        return self.conv3.bn

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(N, C, *S)``."""
        y = self.conv3(self.se(self.conv2(self.conv1(x))))
        return self.relu(self.drop_path(y) + self.downsample(x))


@MODELS.register_module()
class RegNet(ResidualEncoder):
    """The five levels of a RegNet, at strides 2, 4, 8, 16 and 32.

    Args:
        arch: A name of ``ARCHITECTURES``, such as ``'regnety_016'``.
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        out_indices: Levels that give a map; by default all. Stages behind the
            last one are not built.
        norm_cfg: mmcv's config of the norms; by default BN.
        output_stride: 32, or 16 or 8: later halvings become dilation.
        drop_path_rate: Stochastic depth of the last block; linear from 0.
        gradient_checkpointing: Keep only each block's input in training and
            compute the block again in backward.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: An unknown ``arch`` or ``output_stride``.
    """

    key_family = 'regnet'
    stage_names = (('s1',), ('s2',), ('s3',), ('s4',))

    def __init__(
        self,
        arch: str = 'regnetx_016',
        *,
        in_channels: int = 3,
        spatial_dims: int = 2,
        out_indices: Sequence[int] | None = None,
        norm_cfg: dict | None = None,
        output_stride: int = 32,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        sizes = find_arch('RegNet', arch, ARCHITECTURES)
        check_spatial_dims(spatial_dims)
        self.gradient_checkpointing = gradient_checkpointing
        widths, depths = stage_sizes(sizes)
        plans = plan_stages((2, 2, 2, 2), output_stride, stem_stride=2)
        self._set_levels(
            out_indices,
            channels=(STEM_CHANNELS, *widths),
            plans=plans,
            spatial_dims=spatial_dims,
        )
        shared = dict(
            norm_cfg=norm_cfg or dict(type='BN'), spatial_dims=spatial_dims
        )
        self.stem = ConvNorm(in_channels, STEM_CHANNELS, 3, stride=2, **shared)
        squeeze = arch.startswith('regnety')
        stages = build_stages(
            partial(Block, group=sizes.group, squeeze=squeeze, **shared),
            STEM_CHANNELS,
            widths=widths,
            depths=depths,
            plans=plans[: self.out_indices[-1]],
            drop_path_rate=drop_path_rate,
        )
        for (name,), blocks in zip(self.stage_names, stages, strict=False):
            named = {f'b{j}': block for j, block in enumerate(blocks, 1)}
            self.add_module(name, nn.Sequential(OrderedDict(named)))

    def _first_level(self, x: Tensor) -> Tensor:
        return self.stem(x)
