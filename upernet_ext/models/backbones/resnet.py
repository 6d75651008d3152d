"""ResNet and its variants vc, vd, ResNeXt, wide and SE, in 2D and 3D.

Papers: https://arxiv.org/abs/1512.03385; vc and vd are the stem and shortcut
of the "bag of tricks", https://arxiv.org/abs/1812.01187; ResNeXt,
https://arxiv.org/abs/1611.05431; wide, https://arxiv.org/abs/1605.07146; SE,
https://arxiv.org/abs/1709.01507. As in torchvision the 3x3 convolution of a
bottleneck has the stride. Parameter names are timm's (timm/models/resnet.py),
which are torchvision's where it has the network. Weights: Apache-2.0 in
timm's release, those of torchvision BSD-3-Clause.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ...layers.rank import (
    avg_pool,
    check_spatial_dims,
    conv,
    max_pool,
    norm,
)
from ...registry import MODELS
from .encoder import Encoder, timm_weights
from .residual import (
    AvgPoolSame,
    ResidualEncoder,
    SqueezeExcite,
    build_stages,
    find_arch,
    needs_projection,
    plan_stages,
)


@dataclass(frozen=True)
class _Arch:
    depths: tuple[int, ...]
    bottleneck: bool = True
    # Of the 3x3 convolution in a bottleneck: groups, and channels over those
    # of the plain ResNet's.
    groups: int = 1
    widening: int = 1
    squeeze: bool = False
    deep_stem: bool = False
    average: bool = False


_PLAIN = {
    'resnet18': _Arch((2, 2, 2, 2), bottleneck=False),
    'resnet34': _Arch((3, 4, 6, 3), bottleneck=False),
    'resnet50': _Arch((3, 4, 6, 3)),
    'resnet101': _Arch((3, 4, 23, 3)),
    'resnet152': _Arch((3, 8, 36, 3)),
}
_NEXT = {
    # 32x4d and 32x8d.
    'resnext50': replace(_PLAIN['resnet50'], groups=32, widening=2),
    'resnext101': replace(_PLAIN['resnet101'], groups=32, widening=4),
}
ARCHITECTURES = {
    **_PLAIN,
    **{
        f'{name}vc': replace(_PLAIN[name], deep_stem=True)
        for name in ('resnet50', 'resnet101', 'resnet152')
    },
    **{
        f'{name}vd': replace(arch, deep_stem=True, average=True)
        for name, arch in _PLAIN.items()
    },
    **_NEXT,
    'wide_resnet50_2': replace(_PLAIN['resnet50'], widening=2),
    'wide_resnet101_2': replace(_PLAIN['resnet101'], widening=2),
    **{
        f'se{name}': replace(arch, squeeze=True)
        for name, arch in (_PLAIN | _NEXT).items()
    },
}
# timm's names of the published weights.
_WEIGHTS = {
    'resnet18': 'resnet18.a1_in1k',
    'resnet34': 'resnet34.a1_in1k',
    'resnet50': 'resnet50.a1_in1k',
    'resnet101': 'resnet101.a1_in1k',
    'resnet152': 'resnet152.a1_in1k',
    'resnet50vc': 'resnet50c.gluon_in1k',
    'resnet101vc': 'resnet101c.gluon_in1k',
    'resnet152vc': 'resnet152c.gluon_in1k',
    'resnet18vd': 'resnet18d.ra2_in1k',
    'resnet34vd': 'resnet34d.ra2_in1k',
    'resnet50vd': 'resnet50d.ra2_in1k',
    'resnet101vd': 'resnet101d.ra2_in1k',
    'resnet152vd': 'resnet152d.ra2_in1k',
    'resnext50': 'resnext50_32x4d.a1_in1k',
    'resnext101': 'resnext101_32x8d.tv2_in1k',
    'wide_resnet50_2': 'wide_resnet50_2.racm_in1k',
    'wide_resnet101_2': 'wide_resnet101_2.tv2_in1k',
    'seresnet50': 'seresnet50.a1_in1k',
    'seresnext50': 'seresnext50_32x4d.racm_in1k',
    'seresnext101': 'seresnext101_32x8d.ah_in1k',
}


def _paper(arch: _Arch) -> str:
    if arch.squeeze:
        return '1709.01507'
    if arch.groups > 1:
        return '1611.05431'
    if arch.widening > 1:
        return '1605.07146'
    return '1812.01187' if arch.deep_stem else '1512.03385'


def _entry(name: str) -> Encoder:
    weights = _WEIGHTS.get(name)
    torchvisions = '.tv' in (weights or '')
    licence = 'BSD-3-Clause' if torchvisions else 'Apache-2.0'
    return Encoder(
        family='resnet',
        backbone=dict(type='upernet_ext.ResNet', arch=name),
        source=f'https://arxiv.org/abs/{_paper(ARCHITECTURES[name])}',
        spatial_dims=(2, 3),
        weights=weights and timm_weights(weights),
        licence=licence if weights else '',
        reference='timm',
    )


ENCODERS = {name: _entry(name) for name in ARCHITECTURES}


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1, around a shortcut.

    Args:
        in_channels: Channels in.
        channels: Channels out.
        arch: Of the network: kind of the block.
        stride: Of the first 3x3 convolution.
        dilations: Of the same, and of a second one.
        drop_path: Probability to skip the branch, per sample.
        norm_cfg: mmcv's config of the norms.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        arch: _Arch,
        stride: int,
        dilations: tuple[int, int],
        drop_path: float,
        norm_cfg: dict,
        spatial_dims: int,
    ) -> None:
        super().__init__()
        make_conv = partial(conv, spatial_dims=spatial_dims, bias=False)
        spatial = dict(stride=stride, dilation=dilations[0])
        if arch.bottleneck:
            inner = channels // 4 * arch.widening
            widths = (inner, inner, channels)
            self.conv1 = make_conv(in_channels, inner, 1)
            self.conv2 = make_conv(
                inner, inner, 3, groups=arch.groups, **spatial
            )
            self.conv3 = make_conv(inner, channels, 1)
        else:
            widths = (channels, channels)
            self.conv1 = make_conv(in_channels, channels, 3, **spatial)
            self.conv2 = make_conv(
                channels, channels, 3, dilation=dilations[1]
            )
        for i, width in enumerate(widths, 1):
            self.add_module(f'bn{i}', norm(norm_cfg, width, spatial_dims))
        self.num_convs = len(widths)
        self.se = (
            SqueezeExcite(
                channels, max(8, channels // 16), spatial_dims=spatial_dims
            )
            if arch.squeeze
            else nn.Identity()
        )
        self.relu = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample = nn.Identity()
        if needs_projection(in_channels, channels, stride, dilations):
            pools = self._pools(arch, stride, dilations[1], spatial_dims)
            stride = 1 if pools else stride
            self.downsample = nn.Sequential(
                *pools,
                make_conv(in_channels, channels, 1, stride=stride),
                norm(norm_cfg, channels, spatial_dims),
            )

    @staticmethod
    def _pools(
        arch: _Arch, stride: int, dilation: int, spatial_dims: int
    ) -> list[nn.Module]:
        """Pool the shortcut of vd, which averages instead of striding."""
        if not arch.average:
            return []
        if stride > 1:
            return [
                avg_pool(spatial_dims, 2, stride=stride, ceil_mode=True),
            ]
        same = dilation > 1
        return [AvgPoolSame(spatial_dims) if same else nn.Identity()]

    @property
    def last_norm(self) -> nn.Module:
        """The norm that ends the branch."""
        return self.get_submodule(f'bn{self.num_convs}')

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(N, C, *S)``."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.num_convs == 3:
            y = self.bn3(self.conv3(self.relu(y)))
        return self.relu(self.drop_path(self.se(y)) + self.downsample(x))


@MODELS.register_module()
class ResNet(ResidualEncoder):
    """The five levels of a ResNet, at strides 2, 4, 8, 16 and 32.

    The first is the stem's before max pooling.

    Args:
        arch: A name of ``ARCHITECTURES``: ``'resnet18'`` to ``152``, with
            ``vd`` or (from 50) ``vc`` behind or ``se`` before it,
            ``'resnext50'``, ``'resnext101'``, ``'seresnext50'``,
            ``'wide_resnet50_2'``, ...
        depths: Blocks a stage; by default the arch's.
        base_channels: Channels of the stem; the stages' grow with them.
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

    key_family = 'resnet'
    stage_names = (('layer1',), ('layer2',), ('layer3',), ('layer4',))

    def __init__(
        self,
        arch: str = 'resnet50',
        depths: Sequence[int] | None = None,
        *,
        base_channels: int = 64,
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
        sizes = find_arch('ResNet', arch, ARCHITECTURES)
        check_spatial_dims(spatial_dims)
        self.gradient_checkpointing = gradient_checkpointing
        depths = tuple(depths or sizes.depths)
        first = base_channels * (4 if sizes.bottleneck else 1)
        widths = [first * 2**i for i in range(4)]
        plans = plan_stages((1, 2, 2, 2), output_stride, stem_stride=4)
        self._set_levels(
            out_indices,
            channels=(base_channels, *widths),
            plans=plans,
            spatial_dims=spatial_dims,
        )
        shared = dict(
            norm_cfg=norm_cfg or dict(type='BN'), spatial_dims=spatial_dims
        )
        self.conv1 = self._stem_convs(
            in_channels, base_channels, deep=sizes.deep_stem, **shared
        )
        self.bn1 = norm(shared['norm_cfg'], base_channels, spatial_dims)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = max_pool(spatial_dims, 3, stride=2, padding=1)
        stages = build_stages(
            partial(Block, arch=sizes, **shared),
            base_channels,
            widths=widths,
            depths=depths,
            plans=plans[: self.out_indices[-1]],
            drop_path_rate=drop_path_rate,
        )
        for (name,), blocks in zip(self.stage_names, stages, strict=False):
            self.add_module(name, nn.Sequential(*blocks))

    @staticmethod
    def _stem_convs(
        in_channels: int,
        channels: int,
        *,
        deep: bool,
        norm_cfg: dict,
        spatial_dims: int,
    ) -> nn.Module:
        """Halve the map: with a 7x7 convolution, or three 3x3."""
        make_conv = partial(conv, spatial_dims=spatial_dims, bias=False)
        if not deep:
            return make_conv(in_channels, channels, 7, stride=2)
        half = channels // 2
        return nn.Sequential(
            make_conv(in_channels, half, 3, stride=2),
            norm(norm_cfg, half, spatial_dims),
            nn.ReLU(inplace=True),
            make_conv(half, half, 3),
            norm(norm_cfg, half, spatial_dims),
            nn.ReLU(inplace=True),
            make_conv(half, channels, 3),
        )

    def _first_level(self, x: Tensor) -> Tensor:
        return self.relu(self.bn1(self.conv1(x)))

    def _enter(self, x: Tensor) -> Tensor:
        return self.maxpool(x)
