"""Xception, in 2D and 3D.

Paper: https://arxiv.org/abs/1610.02357 (figure 5). Parameter names are those
of timm's ``legacy_xception`` (timm/models/xception.py). Weights: converted
from Keras', in timm's release (Apache-2.0).

The two convolutions of the stem pad nothing: of ``n`` pixels an axis the
first level has ``(n - 1) // 2 - 2`` (109 of 224), and each next level half of
the one before, rounded up (55, 28, 14, 7). Pixel ``i`` of the first level is
centred on pixel ``2 * i + 3`` of the image, so the maps lack three pixels at
the border; and an axis needs 7 pixels at least.
"""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ...layers.rank import check_spatial_dims, conv, max_pool, norm
from ...registry import MODELS
from .encoder import Encoder
from .residual import ResidualEncoder, StagePlan, find_arch, plan_stages

_HALF = (127.5, 127.5, 127.5)
ENCODERS = {
    'xception': Encoder(
        family='xception',
        backbone=dict(type='upernet_ext.Xception', arch='xception'),
        source='https://arxiv.org/abs/1610.02357',
        spatial_dims=(2, 3),
        weights=(
            'https://github.com/rwightman/pytorch-image-models/releases/'
            'download/v0.1-cadene/xception-43020ad28.pth'
        ),
        licence='Apache-2.0',
        mean=_HALF,
        std=_HALF,
        reference='timm',
    )
}


class SeparableConv(nn.Sequential):
    """A depthwise 3x3 convolution, then a 1x1.

    Args:
        in_channels: Channels in.
        channels: Channels out.
        dilation: Distance between taps, in pixels.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        dilation: int,
        spatial_dims: int,
    ) -> None:
        super().__init__()
        make_conv = partial(conv, spatial_dims=spatial_dims, bias=False)
        self.conv1 = make_conv(
            in_channels, in_channels, 3, dilation=dilation, groups=in_channels
        )
        self.pointwise = make_conv(in_channels, channels, 1)


class DilatedMaxPool(nn.Module):
    """Max pooling of three pixels an axis, ``dilation`` apart.

    Args:
        stride: In pixels.
        dilation: Distance between the pixels.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self, stride: int, dilation: int, *, spatial_dims: int
    ) -> None:
        super().__init__()
        # One number an axis: a thick slice may get others.
        edge, dilations = (3,) * spatial_dims, (dilation,) * spatial_dims
        self.pool = max_pool(
            spatial_dims, edge, stride=stride, dilation=dilations
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pool ``(N, C, *S)``."""
        # torch's own padding ends at half the window, dilated or not.
        pads = [
            pad
            for edge, dilation in zip(
                reversed(self.pool.kernel_size),
                reversed(self.pool.dilation),
                strict=True,
            )
            for pad in [dilation * (edge // 2)] * 2
        ]
        return self.pool(F.pad(x, pads, value=-torch.inf))


class Block(nn.Module):
    """Separable convolutions, a max pooling, around a shortcut.

    Args:
        in_channels: Channels in.
        widths: Channels behind each separable convolution.
        stride: Of the pooling and the shortcut; ``None`` for neither.
        dilation: Distance between taps, in pixels.
        relu_first: Whether a ReLU precedes the first convolution.
        norm_cfg: mmcv's config of the norms.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        *,
        stride: int | None,
        dilation: int,
        norm_cfg: dict,
        spatial_dims: int,
        relu_first: bool = True,
    ) -> None:
        super().__init__()
        layers, channels = [], in_channels
        spatial = dict(dilation=dilation, spatial_dims=spatial_dims)
        for i, width in enumerate(widths):
            if i or relu_first:
                # The first would overwrite what the shortcut needs.
                layers.append(nn.ReLU(inplace=i > 0))
            layers += [
                SeparableConv(channels, width, **spatial),
                norm(norm_cfg, width, spatial_dims),
            ]
            channels = width
        if stride is not None:
            layers.append(
                DilatedMaxPool(stride, dilation, spatial_dims=spatial_dims)
            )
            self.skip = conv(
                in_channels,
                channels,
                1,
                spatial_dims=spatial_dims,
                stride=stride,
                bias=False,
            )
            self.skipbn = norm(norm_cfg, channels, spatial_dims)
        self.rep = nn.Sequential(*layers)
        self.projects = stride is not None

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(N, C, *S)``."""
        shortcut = self.skipbn(self.skip(x)) if self.projects else x
        return self.rep(x) + shortcut


@MODELS.register_module()
class Xception(ResidualEncoder):
    """The five levels of Xception, at strides 2, 4, 8, 16 and 32.

    All have passed a ReLU. The module's docstring tells the sizes of the maps.

    Args:
        arch: ``'xception'``.
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        out_indices: Levels that give a map; by default all. Blocks behind the
            last one are not built.
        norm_cfg: mmcv's config of the norms; by default BN.
        output_stride: 32, or 16 or 8: later halvings become dilation.
        gradient_checkpointing: Keep only each block's input in training and
            compute the block again in backward.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: An unknown ``arch`` or ``output_stride``.
    """

    key_family = 'xception'
    stage_names = (
        ('block1',),
        ('block2',),
        tuple(f'block{i}' for i in range(3, 12)),
        ('block12', 'conv3', 'bn3', 'conv4', 'bn4'),
    )

    def __init__(
        self,
        arch: str = 'xception',
        *,
        in_channels: int = 3,
        spatial_dims: int = 2,
        out_indices: Sequence[int] | None = None,
        norm_cfg: dict | None = None,
        output_stride: int = 32,
        gradient_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        find_arch('Xception', arch, ENCODERS)
        check_spatial_dims(spatial_dims)
        self.gradient_checkpointing = gradient_checkpointing
        plans = plan_stages((2, 2, 2, 2), output_stride, stem_stride=2)
        self._set_levels(
            out_indices,
            channels=(64, 128, 256, 728, 2048),
            plans=plans,
            spatial_dims=spatial_dims,
        )
        norm_cfg = norm_cfg or dict(type='BN')
        make_conv = partial(
            conv, spatial_dims=spatial_dims, padding=0, bias=False
        )
        self.conv1 = make_conv(in_channels, 32, 3, stride=2)
        self.bn1 = norm(norm_cfg, 32, spatial_dims)
        self.conv2 = make_conv(32, 64, 3)
        self.bn2 = norm(norm_cfg, 64, spatial_dims)
        self.relu = nn.ReLU(inplace=True)
        self._build(plans, norm_cfg=norm_cfg, spatial_dims=spatial_dims)

    def _build(self, plans: Sequence[StagePlan], **shared) -> None:
        """Build the stages that the levels need."""
        for stage, (channels, widths, options) in enumerate(
            (
                (64, (128, 128), dict(relu_first=False)),
                (128, (256, 256), {}),
                (256, (728, 728), {}),
                (728, (728, 1024), {}),
            )[: self.out_indices[-1]]
        ):
            first, *others = (
                n for n in self.stage_names[stage] if n.startswith('block')
            )
            plan = plans[stage]
            block = Block(
                channels,
                widths,
                stride=plan.stride,
                dilation=plan.first_dilation,
                **options,
                **shared,
            )
            self.add_module(first, block)
            for name in others:
                block = Block(
                    728,
                    (728, 728, 728),
                    stride=None,
                    dilation=plan.dilation,
                    **shared,
                )
                self.add_module(name, block)
        if self.out_indices[-1] == len(plans):
            rank, dilation = shared['spatial_dims'], plans[-1].dilation
            make_conv = partial(
                SeparableConv, dilation=dilation, spatial_dims=rank
            )
            self.conv3 = make_conv(1024, 1536)
            self.bn3 = norm(shared['norm_cfg'], 1536, rank)
            self.conv4 = make_conv(1536, 2048)
            self.bn4 = norm(shared['norm_cfg'], 2048, rank)

    def _first_level(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)))

    def _blocks(self, stage: int) -> Iterable[nn.Module]:
        names = self.stage_names[stage]
        return [getattr(self, n) for n in names if n.startswith('block')]

    def _level(self, stage: int, x: Tensor) -> Tensor:
        if stage + 1 < len(self.stage_names):
            # Not in place: the next block's shortcut needs what was below 0.
            return x.relu()
        x = self.relu(self.bn3(self.conv3(x)))
        return self.relu(self.bn4(self.conv4(x)))
