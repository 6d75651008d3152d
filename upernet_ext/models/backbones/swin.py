"""Swin and Swin V2, in 2D and 3D.

Papers: Swin Transformer, https://arxiv.org/abs/2103.14030, and Swin
Transformer V2, https://arxiv.org/abs/2111.09883. Parameter names and shapes
are those of microsoft/Swin-Transformer (models/swin_transformer.py and
swin_transformer_v2.py); the norms of the maps those of its segmentation code,
which mmsegmentation has.
"""

import math
import re
from collections.abc import Mapping, Sequence

from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...interop import Change
from ...layers.linear import Linear
from ...layers.rank import check_spatial_dims, conv
from ...layers.transformer import MLP
from ...layers.window_attention import (
    CosineWindowAttention,
    WindowAttention,
    Windows,
    pad_grid,
)
from ...registry import MODELS
from .encoder import PyramidEncoder, select_levels
from .swin_presets import (
    merging_factors,
    stage_strides,
    swin_sizes,
    window_edges,
)
from .swin_weights import adapt_swin

_BLOCK = re.compile(r'layers\.(\d+)\.(?:blocks\.(\d+)|downsample)\.')


class PatchEmbed(nn.Module):
    """Project patches to tokens and normalise them; keys ``proj``, ``norm``.

    Args:
        in_channels: Channels of the image.
        embed_dims: Channels of a token.
        patch_size: Edge of a patch an axis, in pixels.
    """

    def __init__(
        self, in_channels: int, embed_dims: int, *, patch_size: Sequence[int]
    ) -> None:
        super().__init__()
        self.proj = conv(
            in_channels,
            embed_dims,
            tuple(patch_size),
            spatial_dims=len(patch_size),
            stride=tuple(patch_size),
            padding=0,
        )
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, *grid, embed_dims)`` for ``(N, in_channels, *S)``."""
        x = pad_grid(x.movedim(1, -1), self.proj.stride).movedim(-1, 1)
        return self.norm(self.proj(x).movedim(1, -1))


class PatchMerging(nn.Module):
    """Join neighbouring tokens and project them to twice the channels.

    Args:
        embed_dims: Channels of a token.
        factors: Tokens an axis that become one.
        v2: Normalise behind the projection instead of before it.
    """

    def __init__(
        self, embed_dims: int, factors: Sequence[int], *, v2: bool
    ) -> None:
        super().__init__()
        self.factors = tuple(factors)
        joined = embed_dims * math.prod(factors)
        self.reduction = Linear(joined, 2 * embed_dims, bias=False)
        self.norm = nn.LayerNorm(2 * embed_dims if v2 else joined)
        self.v2 = v2

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, *S / factors, 2 C)`` for ``(N, *S, C)``."""
        x = pad_grid(x, self.factors)
        for axis, factor in enumerate(self.factors):
            x = x.unflatten(2 * axis + 1, (-1, factor))
        rank = len(self.factors)
        grid, inner = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
        # The authors' order: rows change first, then columns. Slices change
        # last, so that a volume repeats the weights of an image.
        *depth, rows, columns = inner
        x = x.permute(0, *grid, *depth, columns, rows, -1).flatten(rank + 1)
        norm, project = self.norm, self.reduction
        return norm(project(x)) if self.v2 else project(norm(x))


class Block(nn.Module):
    """Attention in windows and an MLP, each around a shortcut.

    Args:
        embed_dims: Channels of a token.
        num_heads: Attention heads.
        window: Tokens an axis of a window.
        unit: Of V2: see ``CosineWindowAttention``.
        v2: Normalise behind attention and MLP instead of before them.
        drop_path: Probability to skip each branch, per sample.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        window: Sequence[int],
        unit: Sequence[int] | None,
        v2: bool,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims)
        self.attn = (
            CosineWindowAttention(
                embed_dims, num_heads, window=window, unit=unit
            )
            if v2
            else WindowAttention(embed_dims, num_heads, window=window)
        )
        self.norm2 = nn.LayerNorm(embed_dims)
        self.mlp = MLP(embed_dims, 4 * embed_dims)
        self.v2 = v2
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Transform the tokens ``(N, *grid, C)``."""
        if self.v2:
            x = x + self.drop_path(self.norm1(self.attn(x, windows)))
            return x + self.drop_path(self.norm2(self.mlp(x)))
        x = x + self.drop_path(self.attn(self.norm1(x), windows))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Stage(nn.Module):
    """A row of blocks, of which every second shifts its windows.

    Args:
        embed_dims: Channels of a token.
        num_heads: Attention heads.
        window: Tokens an axis of a window.
        factors: Tokens an axis that become one behind the blocks; ``None``
            for the last stage.
        drop_paths: One probability a block.
        v2: The blocks of V2.
        unit: See ``Block``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        window: Sequence[int],
        factors: Sequence[int] | None,
        drop_paths: Sequence[float],
        v2: bool,
        unit: Sequence[int] | None,
    ) -> None:
        super().__init__()
        self.window = tuple(window)
        self.blocks = nn.ModuleList(
            Block(
                embed_dims,
                num_heads,
                window=window,
                unit=unit,
                v2=v2,
                drop_path=p,
            )
            for p in drop_paths
        )
        self.downsample = (
            PatchMerging(embed_dims, factors, v2=v2) if factors else None
        )

    def forward(self, x: Tensor, *, checkpointing: bool) -> Tensor:
        """Transform the tokens ``(N, *grid, C)``; they are not merged yet."""
        windows = [
            Windows(
                x.shape[1:-1], self.window, shifted=shifted, device=x.device
            )
            for shifted in (False, True)
        ]
        for i, block in enumerate(self.blocks):
            if checkpointing:
                x = checkpoint(block, x, windows[i % 2], use_reentrant=False)
            else:
                x = block(x, windows[i % 2])
        return x


@MODELS.register_module()
class SwinTransformer(PyramidEncoder, BaseModule):
    """The four stages of Swin or Swin V2, at strides 4, 8, 16 and 32.

    Images give what the published networks give. A volume of equal slices
    gives at every depth what its slice gives, with weights for images: every
    distance along the depth then has the same bias, and the padding along
    the depth is not seen.

    Args:
        arch: One of swin_presets.py, such as ``'swin_tiny'`` or
            ``'swin_v2_tiny'``; or ``None`` and the sizes.
        depths: Blocks a stage.
        embed_dims: Channels of the first stage; those of each later one are
            twice those before it.
        num_heads: Attention heads a stage.
        window_size: Tokens of the edge of a window, or one number an axis; by
            default the arch's, in volumes at most 8 deep.
        v2: The blocks of Swin V2; told by ``arch``.
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        halvings: Which axes each of the five halvings halves, two for the
            patches and three between the stages: five times 1 or 2 an axis,
            such as ``((1, 2, 2), (2, 2, 2), ...)`` for thick slices; by
            default all.
        out_indices: Stages that give a map; by default all. Stages behind
            the last one are not built.
        output_norm: Give each map a layer norm of its own, ``norm0`` to
            ``norm3``, as the authors' segmentation code.
        drop_path_rate: Stochastic depth of the last block; linear from 0.
        gradient_checkpointing: Keep only each block's input in training and
            compute the block again in backward.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: An unknown ``arch``, sizes given twice or not at all, or
            of other lengths than expected.
    """

    key_family = 'swin'
    # The norms of the maps are new in every published classifier.
    optional_pretrained_keys = ('norm0.', 'norm1.', 'norm2.', 'norm3.')

    def __init__(
        self,
        arch: str | None = None,
        depths: Sequence[int] | None = None,
        *,
        embed_dims: int | None = None,
        num_heads: Sequence[int] | None = None,
        window_size: int | Sequence[int] | None = None,
        v2: bool = False,
        in_channels: int = 3,
        spatial_dims: int = 2,
        halvings: Sequence[Sequence[int]] | None = None,
        out_indices: Sequence[int] | None = None,
        output_norm: bool = True,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_spatial_dims(spatial_dims)
        sizes = swin_sizes(arch, depths, embed_dims, num_heads, v2)
        window = window_edges(window_size or sizes.window, spatial_dims)
        patch, *factors = merging_factors(halvings, spatial_dims)
        self.depths = sizes.depths
        dims = [sizes.embed_dims * 2**i for i in range(len(self.depths))]
        self.out_indices = select_levels(out_indices, len(dims))
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        strides = stage_strides(patch, factors)
        self.out_strides = tuple(strides[i] for i in self.out_indices)
        self.gradient_checkpointing = gradient_checkpointing
        self.patch_embed = PatchEmbed(in_channels, dims[0], patch_size=patch)
        last = self.out_indices[-1]
        rates = _rates(self.depths, drop_path_rate)
        self.layers = nn.ModuleList(
            Stage(
                dims[i],
                sizes.num_heads[i],
                window=window,
                factors=factors[i] if i < last else None,
                drop_paths=rates[i],
                v2=sizes.v2,
                unit=sizes.units and (sizes.units[i],) * spatial_dims,
            )
            for i in range(last + 1)
        )
        self.output_norm = output_norm
        if output_norm:
            for i in self.out_indices:
                self.add_module(f'norm{i}', nn.LayerNorm(dims[i]))

    def init_weights(self) -> None:
        """Truncated normal 0.02 and biases 0, as the authors' code.

        Norms behind the branches of V2 start at 0, which makes every block
        the identity.
        """
        super().init_weights()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif hasattr(module, 'relative_position_bias_table'):
                nn.init.trunc_normal_(
                    module.relative_position_bias_table, std=0.02
                )
            elif isinstance(module, Block) and module.v2:
                for norm in (module.norm1, module.norm2):
                    nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode an image.

        Args:
            x: ``(N, in_channels, *S)``, normalised.

        Returns:
            One map ``(N, C_i, *S_i)`` for each of ``out_indices``.
        """
        x = self.patch_embed(x)
        maps = []
        checkpointing = self.gradient_checkpointing and self.training
        for i, stage in enumerate(self.layers):
            x = stage(x, checkpointing=checkpointing)
            if i in self.out_indices:
                norm = getattr(self, f'norm{i}', nn.Identity())
                maps.append(norm(x).movedim(-1, 1))
            if stage.downsample is not None:
                x = stage.downsample(x)
        return tuple(maps)

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Tell the depth of a parameter: one layer a block.

        0 for the patches; a merging belongs to the block before it; the last
        for the norms of the maps. As mmpretrain counts
        (``SwinTransformer.get_layer_depth``).
        """
        last = sum(self.depths) + 1
        if name.startswith('patch_embed.'):
            return 0, last + 1
        found = _BLOCK.match(name)
        if not found:
            return last, last + 1
        stage = int(found[1])
        if found[2] is None:
            return sum(self.depths[: stage + 1]), last + 1
        return sum(self.depths[:stage]) + int(found[2]) + 1, last + 1

    @property
    def unused_pretrained_keys(self) -> tuple[str, ...]:
        """Prefixes in a Swin's file that this model has no use for.

        The classifier's norm, what is behind the last stage, and masks and
        tables that are computed here.
        """
        built, stages = len(self.layers), len(self.depths)
        computed = [
            f'layers.{i}.blocks.{j}.{name}'
            for i in range(built)
            for j in range(self.depths[i])
            for name in (
                *('attn_mask', 'attn.relative_position_index'),
                'attn.relative_coords_table',
            )
        ]
        given = self.out_indices if self.output_norm else ()
        return (
            *('norm.', f'layers.{built - 1}.downsample.'),
            *(f'layers.{i}.' for i in range(built, stages)),
            *(f'norm{i}.' for i in range(stages) if i not in given),
            *computed,
        )

    def adapt_state_dict(
        self, state_dict: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Change]]:
        """Fit tables to the window; weights for images to a volume."""
        return adapt_swin(
            state_dict, self.state_dict(), window=self.layers[0].window
        )


def _rates(depths: Sequence[int], last: float) -> list[list[float]]:
    """Drop path of each block of each stage, from 0 to ``last``."""
    blocks = max(sum(depths) - 1, 1)
    return [
        [last * (sum(depths[:i]) + j) / blocks for j in range(depth)]
        for i, depth in enumerate(depths)
    ]
