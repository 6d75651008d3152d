"""A plain vision transformer, in 2D and 3D.

Papers: An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929;
layer scale from CaiT, https://arxiv.org/abs/2103.17239. Parameter names are
timm's (timm/models/vision_transformer.py), which the AugReg, DeiT and MAE
releases share, so their files load as they are. Weights: AugReg Apache-2.0,
DeiT Apache-2.0, MAE CC-BY-NC 4.0.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from ...layers.patch_embed import PatchEmbed, resample_position_embedding
from ...layers.rank import check_spatial_dims, pad_to_multiple
from ...registry import MODELS

# name: (embed_dims, num_layers, num_heads), ViT paper table 1 and DeiT table 1
ARCHITECTURES = {
    't': (192, 12, 3),
    's': (384, 12, 6),
    'b': (768, 12, 12),
    'l': (1024, 24, 16),
    'h': (1280, 32, 16),
}
# Number of blocks: the blocks whose outputs make the four levels.
OUT_INDICES = {
    12: (2, 5, 8, 11),
    24: (5, 11, 17, 23),
    32: (7, 15, 23, 31),
    40: (9, 19, 29, 39),
}


class Attention(nn.Module):
    """Multi-head self-attention with one fused q, k, v projection.

    Args:
        embed_dims: Channels of a token.
        num_heads: Heads; divides ``embed_dims``.
        qkv_bias: Give q, k and v a bias.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, *, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the tokens ``(N, L, embed_dims)``."""
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with GELU between, as timm's ``Mlp``."""

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Transform each token of ``(N, L, embed_dims)``."""
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learned factor a channel; key ``gamma``."""

    def __init__(self, embed_dims: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((embed_dims,), init_value))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``(N, L, embed_dims)``."""
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block.

    Args:
        embed_dims: Channels of a token.
        num_heads: Attention heads.
        mlp_ratio: Hidden channels of the MLP over ``embed_dims``.
        qkv_bias: Give q, k and v a bias.
        init_values: Start of the layer scale; ``None`` for none.
        drop_path: Probability to skip each branch, per sample.
        norm_eps: Of the layer norms.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        init_values: float | None = None,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()

        def scale() -> nn.Module:
            if init_values is None:
                return nn.Identity()
            return LayerScale(embed_dims, init_values)

        self.norm1 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.attn = Attention(embed_dims, num_heads, qkv_bias=qkv_bias)
        self.ls1 = scale()
        self.norm2 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.mlp = MLP(embed_dims, int(embed_dims * mlp_ratio))
        self.ls2 = scale()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Transform the tokens ``(N, L, embed_dims)``."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


@MODELS.register_module()
class VisionTransformer(BaseModule):
    """Plain ViT whose blocks ``out_indices`` give maps at the patch stride.

    Images of any size: the far borders are padded to a multiple of the patch
    (reflection) and the position embedding is resampled to the grid. Blocks
    behind the last of ``out_indices`` are not built.

    Args:
        arch: ``'t' | 's' | 'b' | 'l' | 'h'``, or a dict with
            ``embed_dims``, ``num_layers``, ``num_heads`` and, optionally,
            ``mlp_ratio``.
        patch_size: Edge of a patch, in pixels; or one number an axis.
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        img_size: Edge of the image (or one number an axis) whose grid the
            position embedding is kept for; other sizes are resampled to.
        out_indices: Blocks that give a map; by default four, equally spaced.
        mlp_ratio: Hidden channels of the MLP over ``embed_dims``.
        qkv_bias: Give q, k and v a bias.
        init_values: Start of the layer scale; ``None`` for none.
        drop_path_rate: Stochastic depth of the last block; linear from 0.
        norm_eps: Of the layer norms: 1e-6 in timm, 1e-12 in transformers.
        final_norm: Apply the final norm to every level, as timm's
            ``get_intermediate_layers(norm=True)``. Off, as in mmseg.
        gradient_checkpointing: Keep only each block's input in training and
            compute the block again in backward.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: An unknown ``arch``, or ``out_indices`` that it lacks.
    """

    num_prefix_tokens = 1

    def __init__(
        self,
        arch: str | Mapping[str, float] = 'b',
        patch_size: int | Sequence[int] = 16,
        *,
        in_channels: int = 3,
        spatial_dims: int = 2,
        img_size: int | Sequence[int] = 224,
        out_indices: Sequence[int] | None = None,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        init_values: float | None = None,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-6,
        final_norm: bool = False,
        gradient_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_spatial_dims(spatial_dims)
        embed_dims, num_layers, num_heads = self._architecture(arch)
        if not isinstance(arch, str):
            mlp_ratio = arch.get('mlp_ratio', mlp_ratio)
        self.patch_size = self._per_axis(
            'patch_size', patch_size, spatial_dims
        )
        self.grid = tuple(
            size // patch
            for size, patch in zip(
                self._per_axis('img_size', img_size, spatial_dims),
                self.patch_size,
                strict=True,
            )
        )
        self.num_layers = num_layers
        self.out_indices = self._levels(out_indices, num_layers)
        self.out_channels = (embed_dims,) * len(self.out_indices)
        self.out_strides = (self.patch_size,) * len(self.out_indices)
        self.gradient_checkpointing = gradient_checkpointing

        self.patch_embed = PatchEmbed(
            in_channels, embed_dims, patch_size=self.patch_size
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        self.pos_embed = nn.Parameter(
            torch.zeros(
                1, self.num_prefix_tokens + math.prod(self.grid), embed_dims
            )
        )
        last = max(num_layers - 1, 1)
        self.blocks = nn.ModuleList(
            Block(
                embed_dims,
                num_heads,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                init_values=init_values,
                drop_path=drop_path_rate * i / last,
                norm_eps=norm_eps,
            )
            for i in range(self.out_indices[-1] + 1)
        )
        self.norm = (
            nn.LayerNorm(embed_dims, eps=norm_eps) if final_norm else None
        )

    @staticmethod
    def _architecture(arch: str | Mapping) -> tuple[int, int, int]:
        if not isinstance(arch, str):
            return arch['embed_dims'], arch['num_layers'], arch['num_heads']
        if arch not in ARCHITECTURES:
            raise ValueError(
                f'VisionTransformer has no arch {arch!r}; choose one of '
                f'{sorted(ARCHITECTURES)}, or give a dict with embed_dims, '
                'num_layers and num_heads'
            )
        return ARCHITECTURES[arch]

    @staticmethod
    def _per_axis(
        name: str, value: int | Sequence[int], spatial_dims: int
    ) -> tuple[int, ...]:
        if isinstance(value, int):
            return (value,) * spatial_dims
        if len(value) != spatial_dims:
            raise ValueError(
                f'{name}={tuple(value)} has {len(value)} axes, but '
                f'spatial_dims={spatial_dims}'
            )
        return tuple(value)

    @staticmethod
    def _levels(
        out_indices: Sequence[int] | None, num_layers: int
    ) -> tuple[int, ...]:
        if out_indices is None:
            if num_layers not in OUT_INDICES:
                raise ValueError(
                    f'there are no default out_indices for {num_layers} '
                    f'blocks (only for {sorted(OUT_INDICES)}); set them'
                )
            out_indices = OUT_INDICES[num_layers]
        levels = tuple(i + num_layers if i < 0 else i for i in out_indices)
        if list(levels) != sorted(set(levels) & set(range(num_layers))):
            raise ValueError(
                f'out_indices={tuple(out_indices)} must rise and lie in '
                f'[0, {num_layers}) for {num_layers} blocks'
            )
        return levels

    def init_weights(self) -> None:
        """Truncated normal 0.02, biases 0, as timm and the ViT paper's code.

        The patch projection keeps torch's default (LeCun uniform).
        """
        super().init_weights()
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=1e-6)
        for module in self.blocks.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode an image.

        Args:
            x: ``(N, in_channels, *S)``, normalised.

        Returns:
            One map ``(N, embed_dims, *ceil(S / patch_size))`` for each of
            ``out_indices``.
        """
        x = self.patch_embed(pad_to_multiple(x, self.patch_size))
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        x = x + resample_position_embedding(
            self.pos_embed, self.grid, grid, self.num_prefix_tokens
        )
        maps = []
        for i, block in enumerate(self.blocks):
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if i in self.out_indices:
                tokens = x if self.norm is None else self.norm(x)
                tokens = tokens[:, self.num_prefix_tokens :]
                maps.append(tokens.transpose(1, 2).unflatten(2, grid))
        return tuple(maps)

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Tell the depth of a parameter, for layer-wise learning rates.

        Returns:
            The layer (0 for the embeddings, ``i + 1`` for block ``i``, the
            last for what follows) and the number of layers, as BEiT counts
            (get_num_layer_for_vit in its optim_factory.py).
        """
        num_layers = self.num_layers + 2
        if name.split('.')[0] in ('cls_token', 'pos_embed', 'patch_embed'):
            return 0, num_layers
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, num_layers
        return num_layers - 1, num_layers

    @property
    def unused_pretrained_keys(self) -> tuple[str, ...]:
        """Prefixes in a ViT's file that this model has no use for."""
        behind = range(len(self.blocks), self.num_layers)
        norm = () if self.norm is not None else ('norm.',)
        # DeiT's distilled models and MAE's pre-training files add these.
        extra = ('mask_token', 'decoder', 'dist_token', 'head_dist.')
        return (*(f'blocks.{i}.' for i in behind), *norm, *extra)

    def adapt_state_dict(
        self, state_dict: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, tuple]]:
        """Resample a file's position embedding to this model's grid.

        The file's grid is taken to be square (a cube).

        Returns:
            The state dict, and ``{'pos_embed': (old shape, new shape)}``
            when it was resampled.
        """
        state_dict = dict(state_dict)
        old = state_dict.get('pos_embed')
        if old is None or old.shape == self.pos_embed.shape:
            return state_dict, {}
        patches = old.shape[1] - self.num_prefix_tokens
        edge = round(patches ** (1 / len(self.grid)))
        if edge ** len(self.grid) != patches:
            return state_dict, {}  # the receipt will name both shapes
        new = resample_position_embedding(
            old, (edge,) * len(self.grid), self.grid, self.num_prefix_tokens
        )
        state_dict['pos_embed'] = new
        return state_dict, {'pos_embed': (tuple(old.shape), tuple(new.shape))}
