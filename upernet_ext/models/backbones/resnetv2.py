"""ResNet V2, whose norms and activations precede the convolutions; 2D and 3D.

Paper: https://arxiv.org/abs/1603.05027. As in timm the 3x3 convolution of a
bottleneck has the stride. Parameter names are timm's
(timm/models/resnetv2.py, the networks with batch norm). Weights: Apache-2.0,
in timm's release.
"""

from collections.abc import Iterable, Sequence
from functools import partial

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from ...layers.rank import check_spatial_dims, conv, max_pool, norm
from ...registry import MODELS
from .encoder import Encoder, timm_weights
from .residual import (
    ResidualEncoder,
    build_stages,
    find_arch,
    needs_projection,
    plan_stages,
)

# Blocks a stage.
ARCHITECTURES = {
    'resnet50v2': (3, 4, 6, 3),
    'resnet101v2': (3, 4, 23, 3),
    'resnet152v2': (3, 8, 36, 3),
}
# timm's names of the published weights.
_WEIGHTS = {
    'resnet50v2': 'resnetv2_50.a1h_in1k',
    'resnet101v2': 'resnetv2_101.a1h_in1k',
}
# What timm's cards say: 0.5 of 0..255, not ImageNet's statistics.
_HALF = (127.5, 127.5, 127.5)


def _entry(arch: str) -> Encoder:
    weights = _WEIGHTS.get(arch)
    return Encoder(
        family='resnetv2',
        backbone=dict(type='upernet_ext.ResNetV2', arch=arch),
        source='https://arxiv.org/abs/1603.05027',
        spatial_dims=(2, 3),
        weights=weights and timm_weights(weights),
        licence='Apache-2.0' if weights else '',
        mean=_HALF,
        std=_HALF,
        reference='timm',
    )


ENCODERS = {arch: _entry(arch) for arch in ARCHITECTURES}


class Block(nn.Module):
    """Three times norm, ReLU, convolution (1x1, 3x3, 1x1), and a shortcut.

    Args:
        in_channels: Channels in.
        channels: Channels out.
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
        stride: int,
        dilations: tuple[int, int],
        drop_path: float,
        norm_cfg: dict,
        spatial_dims: int,
    ) -> None:
        super().__init__()
        make_conv = partial(conv, spatial_dims=spatial_dims, bias=False)
        inner = channels // 4
        self.downsample = None
        if needs_projection(in_channels, channels, stride, dilations):
            self.downsample = nn.Module()
            self.downsample.conv = make_conv(
                in_channels, channels, 1, stride=stride
            )
        self.norm1 = norm(norm_cfg, in_channels, spatial_dims)
        self.conv1 = make_conv(in_channels, inner, 1)
        self.norm2 = norm(norm_cfg, inner, spatial_dims)
        self.conv2 = make_conv(
            inner, inner, 3, stride=stride, dilation=dilations[0]
        )
        self.norm3 = norm(norm_cfg, inner, spatial_dims)
        self.conv3 = make_conv(inner, channels, 1)
        self.relu = nn.ReLU(inplace=True)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(N, C, *S)``."""
        y = self.relu(self.norm1(x))
        # A projection, unlike the identity, sees the activated map.
        shortcut = x if self.downsample is None else self.downsample.conv(y)
        y = self.conv1(y)
        y = self.conv2(self.relu(self.norm2(y)))
        y = self.conv3(self.relu(self.norm3(y)))
        return self.drop_path(y) + shortcut


@MODELS.register_module()
class ResNetV2(ResidualEncoder):
    """The five levels of a ResNet V2, at strides 2, 4, 8, 16 and 32.

    The first is the stem's convolution before max pooling, those between are
    sums that no norm has seen, and the last has passed the network's final
    norm and ReLU.

    Args:
        arch: ``'resnet50v2'``, ``'resnet101v2'`` or ``'resnet152v2'``.
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

    key_family = 'resnetv2'
    stage_names = (
        *(('stages.0',), ('stages.1',), ('stages.2',)),
        ('stages.3', 'norm'),
    )

    def __init__(
        self,
        arch: str = 'resnet50v2',
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
        depths = tuple(depths or find_arch('ResNetV2', arch, ARCHITECTURES))
        check_spatial_dims(spatial_dims)
        self.gradient_checkpointing = gradient_checkpointing
        widths = [base_channels * 4 * 2**i for i in range(4)]
        plans = plan_stages((1, 2, 2, 2), output_stride, stem_stride=4)
        self._set_levels(
            out_indices,
            channels=(base_channels, *widths),
            plans=plans,
            spatial_dims=spatial_dims,
        )
        norm_cfg = norm_cfg or dict(type='BN')
        make_conv = partial(conv, spatial_dims=spatial_dims, bias=False)
        self.stem = nn.Module()
        self.stem.conv = make_conv(in_channels, base_channels, 7, stride=2)
        self.maxpool = max_pool(spatial_dims, 3, stride=2, padding=1)
        stages = build_stages(
            partial(Block, norm_cfg=norm_cfg, spatial_dims=spatial_dims),
            base_channels,
            widths=widths,
            depths=depths,
            plans=plans[: self.out_indices[-1]],
            drop_path_rate=drop_path_rate,
        )
        self.stages = nn.ModuleList(
            nn.ModuleDict({'blocks': nn.Sequential(*blocks)})
            for blocks in stages
        )
        if self.out_indices[-1] == len(widths):
            self.norm = norm(norm_cfg, widths[-1], spatial_dims)
            self.relu = nn.ReLU(inplace=True)

    def _first_level(self, x: Tensor) -> Tensor:
        return self.stem.conv(x)

    def _enter(self, x: Tensor) -> Tensor:
        return self.maxpool(x)

    def _blocks(self, stage: int) -> Iterable[nn.Module]:
        return self.stages[stage]['blocks']

    def _level(self, stage: int, x: Tensor) -> Tensor:
        whole = stage + 1 == len(self.stage_names)
        return self.relu(self.norm(x)) if whole else x
