"""ConvNeXt and ConvNeXt V2, in 2D and 3D.

Papers: A ConvNet for the 2020s, https://arxiv.org/abs/2201.03545, and
ConvNeXt V2, https://arxiv.org/abs/2301.00808. Parameter names and shapes are
timm's (timm/models/convnext.py). Weights: see ``convnext_presets``.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...interop import Change
from ...layers.channel_norm import ChannelLayerNorm, GlobalResponseNorm
from ...layers.linear import Linear
from ...layers.rank import check_spatial_dims, conv
from ...registry import MODELS
from .convnext_presets import ConvNeXtSizes, convnext_sizes
from .encoder import PyramidEncoder, select_levels

_STAGE = re.compile(r'stages\.(\d+)\.blocks\.')
_MLP_WEIGHT = re.compile(r'\.mlp\.fc[12]\.weight$')


class MLP(nn.Module):
    """Expand the channels fourfold and back, with GELU between.

    Args:
        channels: In and out.
        spatial_dims: 2 or 3.
        v2: Normalise the responses after GELU.
        as_conv: Two 1x1 convolutions of ``(N, C, *S)``, instead of two linear
            layers of ``(N, *S, C)``.
    """

    def __init__(
        self, channels: int, *, spatial_dims: int, v2: bool, as_conv: bool
    ) -> None:
        super().__init__()
        hidden = 4 * channels
        if as_conv:
            self.fc1 = conv(channels, hidden, 1, spatial_dims=spatial_dims)
            self.fc2 = conv(hidden, channels, 1, spatial_dims=spatial_dims)
        else:
            self.fc1 = Linear(channels, hidden)
            self.fc2 = Linear(hidden, channels)
        self.act = nn.GELU()
        axis = 1 if as_conv else -1
        self.grn = (
            GlobalResponseNorm(hidden, channel_axis=axis)
            if v2
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of ``x``."""
        return self.fc2(self.grn(self.act(self.fc1(x))))


class Block(nn.Module):
    """Depthwise 7x7 convolution, layer norm, MLP, around a shortcut.

    Args:
        channels: In and out.
        spatial_dims: 2 or 3.
        v2: Global response norm instead of the layer scale.
        conv_mlp: See ``MLP``.
        layer_scale: Start of the layer scale ``gamma`` of the first version;
            ``None`` for none.
        drop_path: Probability to skip the branch, per sample.
    """

    def __init__(
        self,
        channels: int,
        *,
        spatial_dims: int,
        v2: bool,
        conv_mlp: bool,
        layer_scale: float | None,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.conv_dw = conv(
            channels, channels, 7, spatial_dims=spatial_dims, groups=channels
        )
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = MLP(
            channels, spatial_dims=spatial_dims, v2=v2, as_conv=conv_mlp
        )
        self.conv_mlp = conv_mlp
        self.gamma = (
            None
            if v2 or layer_scale is None
            else nn.Parameter(torch.full((channels,), layer_scale))
        )
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(N, C, *S)``."""
        y = self.norm(self.conv_dw(x).movedim(1, -1))
        if self.conv_mlp:
            y = self.mlp(y.movedim(-1, 1)).movedim(1, -1)
        else:
            y = self.mlp(y)
        if self.gamma is not None:
            y = y * self.gamma
        return x + self.drop_path(y.movedim(-1, 1))


class Stage(nn.Module):
    """Halve the map, except in the first stage, then a row of blocks.

    Args:
        in_channels: Channels in.
        channels: Channels out.
        first: Whether this is the first stage.
        spatial_dims: 2 or 3.
        drop_paths: One probability a block.
        **kwargs: To ``Block``: ``v2``, ``conv_mlp``, ``layer_scale``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        first: bool,
        spatial_dims: int,
        drop_paths: Sequence[float],
        **kwargs,
    ) -> None:
        super().__init__()
        self.downsample = (
            nn.Identity()
            if first
            else nn.Sequential(
                ChannelLayerNorm(in_channels),
                conv(
                    in_channels,
                    channels,
                    2,
                    spatial_dims=spatial_dims,
                    stride=2,
                    padding=0,
                ),
            )
        )
        self.blocks = nn.ModuleList(
            Block(channels, spatial_dims=spatial_dims, drop_path=p, **kwargs)
            for p in drop_paths
        )


@MODELS.register_module()
class ConvNeXt(PyramidEncoder, BaseModule):
    """ConvNeXt's four stages, at strides 4, 8, 16 and 32.

    Args:
        arch: A name of ``ARCHITECTURES``, such as ``'convnext_tiny'``; or
            ``None`` and ``depths`` with ``projection_dims``.
        depths: Blocks a stage.
        projection_dims: Channels a stage.
        v2: The blocks of ConvNeXt V2; told by ``arch``.
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        out_indices: Stages that give a map; by default all. Stages behind
            the last one are not built.
        output_norm: Give each map a layer norm of its own, ``norm0`` to
            ``norm3``, as the recipes of the paper do for segmentation.
        layer_scale: Start of the layer scale of the first version.
        drop_path_rate: Stochastic depth of the last block; linear from 0.
        gradient_checkpointing: Keep only each block's input in training and
            compute the block again in backward.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: An unknown ``arch``, or sizes given twice or not at all.
    """

    key_family = 'convnext'
    # The norms of the maps are new in every published classifier.
    optional_pretrained_keys = ('norm',)

    def __init__(
        self,
        arch: str | None = None,
        depths: Sequence[int] | None = None,
        *,
        projection_dims: Sequence[int] | None = None,
        v2: bool = False,
        in_channels: int = 3,
        spatial_dims: int = 2,
        out_indices: Sequence[int] | None = None,
        output_norm: bool = False,
        layer_scale: float | None = 1e-6,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_spatial_dims(spatial_dims)
        sizes = convnext_sizes(arch, depths, projection_dims, v2)
        self.depths, dims = sizes.depths, sizes.dims
        self.out_indices = select_levels(out_indices, len(dims))
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        self.out_strides = tuple(
            (4 * 2**i,) * spatial_dims for i in self.out_indices
        )
        self.gradient_checkpointing = gradient_checkpointing
        patches = dict(spatial_dims=spatial_dims, stride=4, padding=0)
        self.stem = nn.Sequential(
            conv(in_channels, dims[0], 4, **patches), ChannelLayerNorm(dims[0])
        )
        self.stages = self._build_stages(
            sizes,
            drop_path_rate,
            layer_scale=layer_scale,
            spatial_dims=spatial_dims,
        )
        self.output_norm = output_norm
        if output_norm:
            for i in self.out_indices:
                self.add_module(f'norm{i}', ChannelLayerNorm(dims[i]))

    def _build_stages(
        self, sizes: ConvNeXtSizes, drop_path_rate: float, **kwargs
    ) -> nn.ModuleList:
        dims, last = sizes.dims, max(sum(self.depths) - 1, 1)
        return nn.ModuleList(
            Stage(
                dims[max(i - 1, 0)],
                dims[i],
                first=i == 0,
                drop_paths=[
                    drop_path_rate * (sum(self.depths[:i]) + j) / last
                    for j in range(self.depths[i])
                ],
                v2=sizes.v2,
                conv_mlp=sizes.conv_mlp,
                **kwargs,
            )
            for i in range(self.out_indices[-1] + 1)
        )

    def init_weights(self) -> None:
        """Truncated normal 0.02 and biases 0, as the paper's code."""
        super().init_weights()
        for module in self.modules():
            weight = getattr(module, 'weight', None)
            if weight is not None and weight.ndim > 1:
                nn.init.trunc_normal_(weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode an image.

        Args:
            x: ``(N, in_channels, *S)``, normalised.

        Returns:
            One map ``(N, C_i, *S_i)`` for each of ``out_indices``.
        """
        x = self.stem(x)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage.downsample(x)
            for block in stage.blocks:
                if self.gradient_checkpointing and self.training:
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            if i in self.out_indices:
                norm = getattr(self, f'norm{i}', nn.Identity())
                maps.append(norm(x))
        return tuple(maps)

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Tell the depth of a parameter, stage by stage.

        0 for the stem and the downsampling layers, ``i + 1`` for stage ``i``,
        the last for the norms of the maps; of 8 layers up to nine blocks in
        the last stage but one, of 14 for the deeper ones. Source: the ConvNeXt
        recipes of mmsegmentation (``get_stage_id_for_convnext``,
        ``num_layers`` 6 or 12).
        """
        num_layers = 8 if self.depths[-2] <= 9 else 14
        if name.startswith('stem.') or '.downsample.' in name:
            return 0, num_layers
        stage = _STAGE.match(name)
        return int(stage[1]) + 1 if stage else num_layers - 1, num_layers

    @property
    def unused_pretrained_keys(self) -> tuple[str, ...]:
        """Prefixes in a ConvNeXt's file that this model has no use for."""
        behind = range(len(self.stages), len(self.depths))
        norms = 'norm_pre.' if self.output_norm else 'norm'
        return (*(f'stages.{i}.' for i in behind), norms)

    def adapt_state_dict(
        self, state_dict: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Change]]:
        """Write the MLPs as this model does: linear, or 1x1 convolutions."""
        own = self.state_dict()
        adapted, changes = dict(state_dict), []
        for name, value in state_dict.items():
            if not _MLP_WEIGHT.search(name) or name not in own:
                continue
            shape = own[name].shape
            if value.shape != shape and value.flatten(1).shape == (
                shape[0],
                shape[1:].numel(),
            ):
                adapted[name] = value.reshape(shape)
                changes.append(
                    Change(
                        name,
                        'reshaped',
                        tuple(value.shape),
                        tuple(shape),
                        'a 1x1 convolution is a linear layer a pixel',
                    )
                )
        return adapted, changes
