"""The plain vision transformer, in 2D and 3D, for all its published weights.

Papers: An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929, and
those of the presets (``vit_presets.py``, with source and licence of each).
Parameter names are timm's (timm/models/vision_transformer.py), which the
AugReg, DeiT, MAE and DINOv2 releases share; two differ where timm's own
families disagree: the layer scale is always ``ls1.gamma`` and a block's
relative position bias ``attn.rel_pos_bias.relative_position_bias_table``.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...interop import Change
from ...layers.patch_embed import PatchEmbed, resample_position_embedding
from ...layers.rank import check_spatial_dims, pad_to_multiple
from ...layers.relative_position import (
    RelativePositionBias,
    relative_position_index,
)
from ...layers.rope import AxialRope
from ...layers.transformer import Positions, TransformerBlock
from ...registry import MODELS
from .encoder import PyramidEncoder, select_levels
from .vit_presets import ARCHITECTURES, PRESETS
from .vit_weights import adapt_vit

_DIMENSIONS = ('embed_dims', 'num_layers', 'num_heads')
# What an argument is that neither the caller nor the preset gives.
_PLAIN = dict(
    patch_size=16,
    img_size=224,
    out_indices=None,
    mlp_ratio=4.0,
    mlp='gelu',
    qkv_bias=True,
    init_values=0.0,
    num_registers=0,
    pos_embed=True,
    antialias=False,
    rope=False,
    rel_pos_bias=False,
    norm_eps=1e-6,
    final_norm=False,
)
# Number of blocks: the blocks whose outputs make the four levels.
OUT_INDICES = {
    12: (2, 5, 8, 11),
    24: (5, 11, 17, 23),
    32: (7, 15, 23, 31),
    40: (9, 19, 29, 39),
}
# What published files have beside the network: DeiT's distillation, the
# heads and mask tokens of pre-training, transformers' pooler, a norm for
# DINOv3's small crops.
_PRETRAINING_KEYS = (
    *('mask_token', 'masked_embed', 'decoder', 'dist_token', 'head_dist.'),
    *('lm_head.', 'dino_head.', 'ibot_head.', 'pooler.', 'local_cls_norm.'),
)
# What files store of a block that is computed here.
_COMPUTED_KEYS = (
    *('attn.qkv.bias_mask', 'attn.rope.', 'attn.relative_position_index'),
    'attn.rel_pos_bias.relative_position_index',
)


@MODELS.register_module()
class VisionTransformer(PyramidEncoder, BaseModule):
    """Plain ViT whose blocks ``out_indices`` give maps at the patch stride.

    Images of any size: the far borders are padded to a multiple of the patch
    (reflection) and the positions are resampled to the grid. Class token and
    registers never reach the maps. Blocks behind the last of ``out_indices``
    are not built.

    Where an argument is ``None``, the preset's value holds, or else the plain
    ViT's, which is given in parentheses.

    Args:
        arch: A preset, such as ``'dinov2-b'`` (``vit_presets.PRESETS``); a
            plain ViT ``'t' | 's' | 'b' | 'l' | 'h'``; or a dict with
            ``embed_dims``, ``num_layers``, ``num_heads`` and any of the
            arguments below down to ``final_norm``.
        patch_size: Edge of a patch, in pixels; or one number an axis (16).
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        img_size: Edge of the image (or one number an axis) whose grid the
            learned positions are kept for; other sizes are resampled (224).
        out_indices: Blocks that give a map (four, equally spaced).
        mlp_ratio: Hidden channels of the MLP over ``embed_dims`` (4).
        mlp: ``'gelu'``, ``'swiglu'`` or ``'swiglu-norm'`` (``'gelu'``).
        qkv_bias: Give q, k and v a bias; ``'qv'`` only q and v (true).
        init_values: Start of the layer scale; 0 for none (0).
        num_registers: Register tokens behind the class token (0).
        pos_embed: Learn a position embedding (true).
        antialias: Average where it is resampled to a coarser grid (false).
        rope: Arguments of ``AxialRope``; ``False`` for none (false).
        rel_pos_bias: A relative position bias that the blocks share
            (``'shared'``), one a block (``'block'``), or ``False`` (false).
        norm_eps: Of the layer norms (1e-6).
        final_norm: Apply the final norm to every level, as the
            ``get_intermediate_layers`` of timm and DINO (false, as mmseg).
        drop_path_rate: Stochastic depth of the last block; linear from 0.
        gradient_checkpointing: Keep only each block's input in training and
            compute the block again in backward.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: An unknown ``arch``, ``out_indices`` that it lacks, or
            options that exclude each other.
    """

    key_family = 'vit'

    def __init__(
        self,
        arch: str | Mapping[str, Any] = 'b',
        patch_size: int | Sequence[int] | None = None,
        *,
        in_channels: int = 3,
        spatial_dims: int = 2,
        img_size: int | Sequence[int] | None = None,
        out_indices: Sequence[int] | None = None,
        mlp_ratio: float | None = None,
        mlp: Literal['gelu', 'swiglu', 'swiglu-norm'] | None = None,
        qkv_bias: bool | Literal['qv'] | None = None,
        init_values: float | None = None,
        num_registers: int | None = None,
        pos_embed: bool | None = None,
        antialias: bool | None = None,
        rope: Mapping[str, Any] | Literal[False] | None = None,
        rel_pos_bias: Literal['shared', 'block', False] | None = None,
        norm_eps: float | None = None,
        final_norm: bool | None = None,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_spatial_dims(spatial_dims)
        cfg = _settings(
            arch,
            patch_size=patch_size,
            img_size=img_size,
            out_indices=out_indices,
            mlp_ratio=mlp_ratio,
            mlp=mlp,
            qkv_bias=qkv_bias,
            init_values=init_values,
            num_registers=num_registers,
            pos_embed=pos_embed,
            antialias=antialias,
            rope=rope,
            rel_pos_bias=rel_pos_bias,
            norm_eps=norm_eps,
            final_norm=final_norm,
        )
        embed_dims = cfg['embed_dims']
        self.num_layers = cfg['num_layers']
        self.patch_size = _per_axis(
            'patch_size', cfg['patch_size'], spatial_dims
        )
        sizes = _per_axis('img_size', cfg['img_size'], spatial_dims)
        self.grid = tuple(
            size // patch
            for size, patch in zip(sizes, self.patch_size, strict=True)
        )
        self.out_indices = _levels(cfg['out_indices'], self.num_layers)
        self.out_channels = (embed_dims,) * len(self.out_indices)
        self.out_strides = (self.patch_size,) * len(self.out_indices)
        self.num_prefix_tokens = 1 + cfg['num_registers']
        self.antialias = cfg['antialias']
        self.gradient_checkpointing = gradient_checkpointing

        self.patch_embed = PatchEmbed(
            in_channels, embed_dims, patch_size=self.patch_size
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dims))
        self.reg_token = _zeros(cfg['num_registers'], embed_dims)
        positions = 1 + math.prod(self.grid) if cfg['pos_embed'] else 0
        self.pos_embed = _zeros(positions, embed_dims)
        self._build_positions(cfg)
        self._build_blocks(cfg, drop_path_rate)

    def _build_positions(self, cfg: Mapping[str, Any]) -> None:
        """Build what tells the attention the tokens' places."""
        kind, num_heads = cfg['rel_pos_bias'], cfg['num_heads']
        if kind not in ('shared', 'block', False):
            raise ValueError(
                f"rel_pos_bias={kind!r} is unknown; choose 'shared', 'block' "
                'or False'
            )
        if kind and cfg['num_registers']:
            raise ValueError(
                'a relative position bias knows the class token and the '
                f'patches, but num_registers={cfg["num_registers"]}; set one '
                'of rel_pos_bias=False and num_registers=0'
            )
        self.rope = (
            AxialRope(cfg['embed_dims'] // num_heads, **cfg['rope'])
            if cfg['rope']
            else None
        )
        self.rel_pos_bias = (
            RelativePositionBias(self.grid, num_heads)
            if kind == 'shared'
            else None
        )
        self.window = self.grid if kind == 'block' else None

    def _build_blocks(
        self, cfg: Mapping[str, Any], drop_path_rate: float
    ) -> None:
        last = max(self.num_layers - 1, 1)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                cfg['embed_dims'],
                cfg['num_heads'],
                mlp_ratio=cfg['mlp_ratio'],
                mlp=cfg['mlp'],
                qkv_bias=cfg['qkv_bias'],
                window=self.window,
                init_values=cfg['init_values'],
                drop_path=drop_path_rate * i / last,
                norm_eps=cfg['norm_eps'],
            )
            for i in range(self.out_indices[-1] + 1)
        )
        self.norm = (
            nn.LayerNorm(cfg['embed_dims'], eps=cfg['norm_eps'])
            if cfg['final_norm']
            else None
        )

    def init_weights(self) -> None:
        """Truncated normal 0.02, biases 0, as timm and the ViT paper's code.

        The patch projection keeps torch's default (LeCun uniform).
        """
        super().init_weights()
        for tokens in (self.cls_token, self.reg_token):
            if tokens is not None:
                nn.init.normal_(tokens, std=1e-6)
        for name, parameter in self.named_parameters():
            if name.endswith(('pos_embed', 'relative_position_bias_table')):
                nn.init.trunc_normal_(parameter, std=0.02)
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
        grid = tuple(x.shape[2:])
        x = self._embed(x.flatten(2).transpose(1, 2), grid)
        positions = self._positions(grid, x.device)
        maps = []
        for i, block in enumerate(self.blocks):
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, positions, use_reentrant=False)
            else:
                x = block(x, positions)
            if i in self.out_indices:
                tokens = x[:, self.num_prefix_tokens :]
                tokens = tokens if self.norm is None else self.norm(tokens)
                maps.append(tokens.transpose(1, 2).unflatten(2, grid))
        return tuple(maps)

    def _embed(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Put class token and registers before the patches ``(N, L, C)``."""
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        if self.pos_embed is not None:
            x = x + resample_position_embedding(
                self.pos_embed, self.grid, grid, antialias=self.antialias
            )
        if self.reg_token is None:
            return x
        registers = self.reg_token.expand(len(x), -1, -1)
        return torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)

    def _positions(
        self, grid: tuple[int, ...], device: torch.device
    ) -> Positions:
        rotation = index = bias = None
        if self.rope is not None:
            rotation = self.rope(grid, device)
        if self.rel_pos_bias is not None or self.window is not None:
            index = relative_position_index(grid, device)
        if self.rel_pos_bias is not None:
            bias = self.rel_pos_bias(grid, index)
        return Positions(grid, rotation, bias, index)

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Tell the depth of a parameter, for layer-wise learning rates.

        Returns:
            The layer (0 for the embeddings, ``i + 1`` for block ``i``, the
            last for what follows) and the number of layers, as BEiT counts
            (get_num_layer_for_vit in its optim_factory.py).
        """
        num_layers = self.num_layers + 2
        embeddings = ('cls_token', 'reg_token', 'pos_embed', 'patch_embed')
        if name.split('.')[0] in embeddings:
            return 0, num_layers
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, num_layers
        return num_layers - 1, num_layers

    @property
    def unused_pretrained_keys(self) -> tuple[str, ...]:
        """Prefixes in a ViT's file that this model has no use for."""
        behind = range(len(self.blocks), self.num_layers)
        norm = () if self.norm is not None else ('norm.',)
        computed = (
            f'blocks.{i}.{key}'
            for i in range(len(self.blocks))
            for key in _COMPUTED_KEYS
        )
        return (
            *(f'blocks.{i}.' for i in behind),
            *norm,
            *_PRETRAINING_KEYS,
            *('rope_embed.', 'rope.', 'rel_pos_bias.relative_position_index'),
            *computed,
        )

    def adapt_state_dict(
        self, state_dict: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list[Change]]:
        """Fit a file's patch, positions and declared zeros to this model.

        The file's grid is taken to be square (a cube).

        Returns:
            The state dict, and what was changed.
        """
        return adapt_vit(
            state_dict,
            self.state_dict(),
            grid=self.grid,
            antialias=self.antialias,
        )


def _settings(arch: str | Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Join what the caller gives with the preset and the plain ViT."""
    if not isinstance(arch, str):
        preset = dict(arch)
        unknown = set(preset) - {*_DIMENSIONS, *_PLAIN}
        if unknown or not set(_DIMENSIONS) <= set(preset):
            raise ValueError(
                f'arch takes {list(_DIMENSIONS)}, all three, and any of '
                f'{sorted(_PLAIN)}; got {sorted(preset)}'
            )
    elif arch in PRESETS:
        preset = dict(PRESETS[arch])
    elif arch in ('t', 's', 'b', 'l', 'h'):
        preset = dict(zip(_DIMENSIONS, ARCHITECTURES[arch], strict=True))
    else:
        close = difflib.get_close_matches(arch, PRESETS, n=3, cutoff=0.4)
        raise ValueError(
            f'VisionTransformer has no arch {arch!r}; choose one of t, s, b, '
            f'l, h, a preset ({", ".join(close or sorted(PRESETS))} ...), or '
            'give a dict with embed_dims, num_layers and num_heads'
        )
    given = {k: v for k, v in given.items() if v is not None}
    return {**_PLAIN, **preset, **given}


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
    return select_levels(out_indices, num_layers)


def _zeros(tokens: int, channels: int) -> nn.Parameter | None:
    return nn.Parameter(torch.zeros(1, tokens, channels)) if tokens else None
