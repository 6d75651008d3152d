"""DenseNet-BC, in 2D and 3D.

Paper: https://arxiv.org/abs/1608.06993 (table 1; 161 is the authors' release
at growth 48). Parameter names are torchvision's and timm's
(timm/models/densenet.py). Weights: Apache-2.0, in timm's release.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...layers.rank import (
    avg_pool,
    check_spatial_dims,
    conv,
    max_pool,
    norm,
)
from ...registry import MODELS
from .encoder import Encoder, PyramidEncoder, select_levels, timm_weights

# name: (growth, layers a block)
ARCHITECTURES = {
    'densenet121': (32, (6, 12, 24, 16)),
    'densenet161': (48, (6, 12, 36, 24)),
    'densenet169': (32, (6, 12, 32, 32)),
    'densenet201': (32, (6, 12, 48, 32)),
    'densenet264': (32, (6, 12, 64, 48)),
}
# timm's names of the published weights.
_WEIGHTS = {
    'densenet121': 'densenet121.ra_in1k',
    'densenet161': 'densenet161.tv_in1k',
    'densenet169': 'densenet169.tv_in1k',
    'densenet201': 'densenet201.tv_in1k',
}


def _entry(arch: str) -> Encoder:
    weights = _WEIGHTS.get(arch)
    return Encoder(
        family='densenet',
        backbone=dict(type='upernet_ext.DenseNet', arch=arch),
        source='https://arxiv.org/abs/1608.06993',
        spatial_dims=(2, 3),
        weights=weights and timm_weights(weights),
        licence='Apache-2.0' if weights else '',
        reference='timm' if weights else '',
    )


ENCODERS = {arch: _entry(arch) for arch in ARCHITECTURES}


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1 convolution; norm, ReLU, 3x3 convolution.

    Args:
        in_channels: Channels in.
        growth: Channels out; four times as many are between.
        norm_cfg: mmcv's config of the norms.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self,
        in_channels: int,
        growth: int,
        *,
        norm_cfg: dict,
        spatial_dims: int,
    ) -> None:
        super().__init__()
        hidden = 4 * growth
        shared = dict(spatial_dims=spatial_dims, bias=False)
        self.norm1 = norm(norm_cfg, in_channels, spatial_dims)
        self.conv1 = conv(in_channels, hidden, 1, **shared)
        self.norm2 = norm(norm_cfg, hidden, spatial_dims)
        self.conv2 = conv(hidden, growth, 3, **shared)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, *maps: Tensor) -> Tensor:
        """Make ``growth`` new channels of all maps so far, ``(N, C_i, *S)``.

        The maps come apart so that, with gradient checkpointing, what is
        kept for backward is each map once and not every concatenation.
        """
        x = self.conv1(self.relu(self.norm1(torch.cat(maps, 1))))
        return self.conv2(self.relu(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    """Layers that each see the input and the outputs of all before them.

    Args:
        in_channels: Channels in.
        growth: Channels that each layer adds.
        num_layers: How many layers.
        gradient_checkpointing: Compute each layer again in backward.
        **kwargs: To ``DenseLayer``: ``norm_cfg``, ``spatial_dims``.
    """

    def __init__(
        self,
        in_channels: int,
        growth: int,
        *,
        num_layers: int,
        gradient_checkpointing: bool,
        **kwargs,
    ) -> None:
        super().__init__()
        self.gradient_checkpointing = gradient_checkpointing
        for i in range(num_layers):
            self[f'denselayer{i + 1}'] = DenseLayer(
                in_channels + i * growth, growth, **kwargs
            )

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(N, C, *S)`` to ``(N, C + growth * num_layers, *S)``."""
        maps = [x]
        for layer in self.values():
            if self.gradient_checkpointing and self.training:
                maps.append(checkpoint(layer, *maps, use_reentrant=False))
            else:
                maps.append(layer(*maps))
        return torch.cat(maps, 1)


class Transition(nn.Sequential):
    """Halve the channels and the map.

    Args:
        in_channels: Channels in.
        norm_cfg: mmcv's config of the norm.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self, in_channels: int, *, norm_cfg: dict, spatial_dims: int
    ) -> None:
        super().__init__()
        self.norm = norm(norm_cfg, in_channels, spatial_dims)
        self.relu = nn.ReLU(inplace=True)
        self.conv = conv(
            in_channels,
            in_channels // 2,
            1,
            spatial_dims=spatial_dims,
            bias=False,
        )
        self.pool = avg_pool(spatial_dims, 2)


@MODELS.register_module()
class DenseNet(PyramidEncoder, BaseModule):
    """The five levels of a DenseNet, at strides 2, 4, 8, 16 and 32.

    The first is the stem's, the last has passed the final norm and ReLU, and
    those between are what the dense blocks give, before they are halved.

    Args:
        arch: A name of ``ARCHITECTURES``, such as ``'densenet121'``.
        block_layers: Layers a dense block; by default the arch's.
        growth: Channels that a layer adds; by default the arch's.
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        out_indices: Levels that give a map; by default all. Blocks behind the
            last one are not built.
        norm_cfg: mmcv's config of the norms; by default BN.
        gradient_checkpointing: Compute each dense layer again in backward.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: An unknown ``arch``.
    """

    key_family = 'densenet'

    def __init__(
        self,
        arch: str = 'densenet121',
        block_layers: Sequence[int] | None = None,
        *,
        growth: int | None = None,
        in_channels: int = 3,
        spatial_dims: int = 2,
        out_indices: Sequence[int] | None = None,
        norm_cfg: dict | None = None,
        gradient_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if arch not in ARCHITECTURES:
            raise ValueError(
                f'DenseNet has no arch {arch!r}; choose one of '
                f'{sorted(ARCHITECTURES)}'
            )
        check_spatial_dims(spatial_dims)
        growth = growth or ARCHITECTURES[arch][0]
        self.block_layers = tuple(block_layers or ARCHITECTURES[arch][1])
        num_levels = len(self.block_layers) + 1
        self.out_indices = select_levels(out_indices, num_levels)
        self.features, widths = self._build(
            in_channels,
            growth,
            norm_cfg=norm_cfg or dict(type='BN'),
            spatial_dims=spatial_dims,
            gradient_checkpointing=gradient_checkpointing,
        )
        self.out_channels = tuple(widths[i] for i in self.out_indices)
        self.out_strides = tuple(
            (2 ** (i + 1),) * spatial_dims for i in self.out_indices
        )
        # The modules of ``features`` whose outputs are the levels.
        ends = ['relu0', *(f'denseblock{i}' for i in range(1, num_levels - 1))]
        ends.append('relu5')
        self.level_names = tuple(ends[i] for i in self.out_indices)

    def _build(
        self,
        in_channels: int,
        growth: int,
        *,
        gradient_checkpointing: bool,
        **kwargs,
    ) -> tuple[nn.Sequential, list[int]]:
        """Build what the levels need; also tell the channels of each."""
        spatial_dims = kwargs['spatial_dims']
        channels = 2 * growth
        stem = conv(
            in_channels,
            channels,
            7,
            spatial_dims=spatial_dims,
            stride=2,
            bias=False,
        )
        parts = {
            'conv0': stem,
            'norm0': norm(kwargs['norm_cfg'], channels, spatial_dims),
            'relu0': nn.ReLU(inplace=True),
            'pool0': max_pool(spatial_dims, 3, stride=2, padding=1),
        }
        widths = [channels]
        for i in range(self.out_indices[-1]):
            if i > 0:
                parts[f'transition{i}'] = Transition(channels, **kwargs)
                channels //= 2
            parts[f'denseblock{i + 1}'] = DenseBlock(
                channels,
                growth,
                num_layers=self.block_layers[i],
                gradient_checkpointing=gradient_checkpointing,
                **kwargs,
            )
            channels += self.block_layers[i] * growth
            widths.append(channels)
        if self.out_indices[-1] == len(self.block_layers):
            parts['norm5'] = norm(kwargs['norm_cfg'], channels, spatial_dims)
            parts['relu5'] = nn.ReLU(inplace=True)
        return nn.Sequential(OrderedDict(parts)), widths

    def init_weights(self) -> None:
        """Kaiming normal over the inputs, as torchvision."""
        super().init_weights()
        for module in self.modules():
            weight = getattr(module, 'weight', None)
            if weight is not None and weight.ndim > 1:
                nn.init.kaiming_normal_(weight)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode an image.

        Args:
            x: ``(N, in_channels, *S)``, normalised.

        Returns:
            One map ``(N, C_i, *S_i)`` for each of ``out_indices``.
        """
        maps = []
        for name, module in self.features.named_children():
            x = module(x)
            if name in self.level_names:
                maps.append(x)
        return tuple(maps)

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Tell the depth of a parameter.

        The stem is 0, a dense block and the transition behind it are one
        layer, the final norm belongs to the last block.
        """
        num_blocks = len(self.block_layers)
        part = name.split('.')[1]
        if part.startswith(('denseblock', 'transition')):
            return int(part[len('denseblock') :]), num_blocks + 2
        return (num_blocks if part == 'norm5' else 0), num_blocks + 2

    @property
    def unused_pretrained_keys(self) -> tuple[str, ...]:
        """Prefixes in a file that this model has no use for."""
        last = self.out_indices[-1]
        behind = range(last, len(self.block_layers))
        names = [f'features.denseblock{i + 1}.' for i in behind]
        names += [f'features.transition{i}.' for i in behind]
        return (*names, 'features.norm5.')
