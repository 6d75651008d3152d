"""The plain vision transformer, in 2D and 3D, for all its published weights.

Papers: An Image is Worth 16x16 Words, https://arxiv.org/abs/2010.11929, and
those of the presets (``vit_presets.py``, with source and licence of each).
Parameter names are timm's (timm/models/vision_transformer.py), which the
AugReg, DeiT, MAE and DINOv2 releases share; two differ where timm's own
families disagree: the layer scale is always ``ls1.gamma`` and a block's
relative position bias ``attn.rel_pos_bias.relative_position_bias_table``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...interop import Change
from ...layers.maps import map_of_tokens
from ...layers.patch_embed import PatchEmbed, resample_position_embedding
from ...layers.rank import check_spatial_dims, pad_to_multiple
from ...layers.relative_position import (
    RelativePositionBias,
    relative_position_index,
)
from ...layers.rope import AxialRope
from ...layers.transformer import Positions, TransformerBlock
from ...registry import MODELS
from .encoder import PyramidEncoder
from .vit_settings import levels, per_axis, settings
from .vit_weights import adapt_vit

# What published files have beside the network: DeiT's distillation, the
# heads and mask tokens of pre-training, transformers' pooler, a norm for
# DINOv3's small crops.
_PRETRAINING_KEYS = (
    *('mask_token', 'masked_embed', 'decoder', 'dist_token', 'head_dist.'),
    *('lm_head.', 'dino_head.', 'ibot_head.', 'pooler.', 'local_cls_norm.'),
)
# What comes before the blocks.
_EMBEDDINGS = ('cls_token', 'reg_token', 'pos_embed', 'patch_embed')
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

    Volumes are attended to as a whole. With weights for images the network is
    to be ``inflated``: the patch projection is spread over the patch's depth,
    the position embedding of an image holds for every slice, rotary positions
    turn with y and x alone, and a bias table holds at every distance along z.
    New is ``z_pos_embed``, an embedding of the depth that starts at zero. A
    patch has ``D`` equals along z if all slices are the same, so a prefix
    token counts for ``D`` keys too, which is log(D) added to its score. Such
    a volume then has at every depth the features of its slice, exactly (to
    2e-14 of their standard deviation in float64, 1e-5 in float32; where prefix
    tokens count once, 0.4 and more off).

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
        attn_norm: Norm what was attended before its projection (false).
        init_values: Start of the layer scale; 0 for none (0).
        class_token: Put a class token before the patches (true).
        num_registers: Register tokens behind the class token (0).
        pos_embed: Learn a position embedding (true).
        antialias: Average where it is resampled to a coarser grid (false).
        rope: Arguments of ``AxialRope``; ``False`` for none (false).
        rel_pos_bias: A relative position bias that the blocks share
            (``'shared'``), one a block (``'block'``), or ``False`` (false).
        norm_eps: Of the layer norms (1e-6).
        final_norm: Apply the final norm to every level, as the
            ``get_intermediate_layers`` of timm and DINO (false, as mmseg).
        inflated: In 3D, be a network for images (see above; true for the
            presets of images, otherwise false). In 2D it is one anyway.
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
        attn_norm: bool | None = None,
        init_values: float | None = None,
        class_token: bool | None = None,
        num_registers: int | None = None,
        pos_embed: bool | None = None,
        antialias: bool | None = None,
        rope: Mapping[str, Any] | Literal[False] | None = None,
        rel_pos_bias: Literal['shared', 'block', False] | None = None,
        norm_eps: float | None = None,
        final_norm: bool | None = None,
        inflated: bool | None = None,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_spatial_dims(spatial_dims)
        cfg = settings(
            arch,
            patch_size=patch_size,
            img_size=img_size,
            out_indices=out_indices,
            mlp_ratio=mlp_ratio,
            mlp=mlp,
            qkv_bias=qkv_bias,
            attn_norm=attn_norm,
            init_values=init_values,
            class_token=class_token,
            num_registers=num_registers,
            pos_embed=pos_embed,
            antialias=antialias,
            rope=rope,
            rel_pos_bias=rel_pos_bias,
            norm_eps=norm_eps,
            final_norm=final_norm,
            inflated=inflated,
        )
        self.gradient_checkpointing = gradient_checkpointing
        self._plan(cfg, spatial_dims)
        self._build_tokens(cfg, in_channels)
        self._build_positions(cfg)
        self._build_blocks(cfg, drop_path_rate)

    def _plan(self, cfg: Mapping[str, Any], spatial_dims: int) -> None:
        self.num_layers = cfg['num_layers']
        self.patch_size = per_axis(
            'patch_size', cfg['patch_size'], spatial_dims
        )
        sizes = per_axis('img_size', cfg['img_size'], spatial_dims)
        self.grid = tuple(
            size // patch
            for size, patch in zip(sizes, self.patch_size, strict=True)
        )
        self.out_indices = levels(cfg['out_indices'], self.num_layers)
        self.out_channels = (cfg['embed_dims'],) * len(self.out_indices)
        self.out_strides = (self.patch_size,) * len(self.out_indices)
        self.num_prefix_tokens = cfg['class_token'] + cfg['num_registers']
        self.antialias = cfg['antialias']
        self.inflated = cfg['inflated'] and spatial_dims == 3

    def _build_tokens(self, cfg: Mapping[str, Any], in_channels: int) -> None:
        embed_dims = cfg['embed_dims']
        self.patch_embed = PatchEmbed(
            in_channels, embed_dims, patch_size=self.patch_size
        )
        self.cls_token = _zeros(cfg['class_token'], embed_dims)
        self.reg_token = _zeros(cfg['num_registers'], embed_dims)
        # Of an image, where each slice of a volume is one.
        self._plane = self.grid[-2:] if self.inflated else self.grid
        positions = cfg['class_token'] + math.prod(self._plane)
        self.pos_embed = _zeros(positions * cfg['pos_embed'], embed_dims)
        self.z_pos_embed = _zeros(self.grid[0] * self.inflated, embed_dims)

    def _build_positions(self, cfg: Mapping[str, Any]) -> None:
        """Build what tells the attention the tokens' places."""
        kind, num_heads = cfg['rel_pos_bias'], cfg['num_heads']
        axes = 'yx' if self.inflated else 'all'
        self.rope = (
            AxialRope(
                cfg['embed_dims'] // num_heads, **{'axes': axes, **cfg['rope']}
            )
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
                attn_norm=cfg['attn_norm'],
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

        The patch projection keeps torch's default (LeCun uniform), the
        embedding of the depth its zeros.
        """
        super().init_weights()
        for tokens in (self.cls_token, self.reg_token):
            if tokens is not None:
                nn.init.normal_(tokens, std=1e-6)
        for name, parameter in self.named_parameters():
            if name == 'pos_embed' or name.endswith('_bias_table'):
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
        if self.inflated:
            # Alone, so that the slices of a thin volume are padded as images.
            x = pad_to_multiple(x, (self.patch_size[0], 1, 1))
        x = self.patch_embed(pad_to_multiple(x, self.patch_size))
        grid = tuple(x.shape[2:])
        if self.z_pos_embed is not None:
            x = x + self._z_positions(grid[0])
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
                maps.append(map_of_tokens(tokens, grid))
        return tuple(maps)

    def _embed(self, x: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Put class token and registers before the patches ``(N, L, C)``."""
        prefix = int(self.cls_token is not None)
        if prefix:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        if self.pos_embed is not None:
            pos_embed = resample_position_embedding(
                self.pos_embed,
                self._plane,
                grid[-len(self._plane) :],
                prefix,
                antialias=self.antialias,
            )
            if self.inflated:
                first, plane = pos_embed.tensor_split([prefix], 1)
                pos_embed = torch.cat([first, plane.repeat(1, grid[0], 1)], 1)
            x = x + pos_embed
        if self.reg_token is None:
            return x
        registers = self.reg_token.expand(len(x), -1, -1)
        return torch.cat([x[:, :prefix], registers, x[:, prefix:]], dim=1)

    def _z_positions(self, depth: int) -> Tensor:
        """Resample the embedding of the depth to ``(1, C, depth, 1, 1)``."""
        old, new = (self.grid[0], 1), (depth, 1)
        embedding = resample_position_embedding(self.z_pos_embed, old, new, 0)
        return embedding.mT[..., None, None]

    def _positions(
        self, grid: tuple[int, ...], device: torch.device
    ) -> Positions:
        rotation = index = bias = None
        copies = grid[0] if self.inflated else 1
        if self.rope is not None:
            rotation = self.rope(grid, device)
        if self.rel_pos_bias is not None or self.window is not None:
            index = relative_position_index(grid, device)
        if self.rel_pos_bias is not None:
            bias = self.rel_pos_bias(grid, index, copies)
        return Positions(
            grid, rotation, bias, index, self.num_prefix_tokens, copies
        )

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Tell the depth of a parameter, for layer-wise learning rates.

        Returns:
            The layer (0 for the embeddings, ``i + 1`` for block ``i``, the
            last for what follows, and for the embedding of the depth, which
            is as new as the heads) and the number of layers, as BEiT counts
            (get_num_layer_for_vit in its optim_factory.py).
        """
        num_layers = self.num_layers + 2
        if name.split('.')[0] in _EMBEDDINGS:
            return 0, num_layers
        if name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, num_layers
        return num_layers - 1, num_layers

    @property
    def added_keys(self) -> tuple[str, ...]:
        """Names of the parameters that no network for images has."""
        return ('z_pos_embed',) if self.inflated else ()

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

        The file's grid is taken to be square (a cube). Weights for images
        are inflated to volumes.

        Returns:
            The state dict, and what was changed.

        Raises:
            WeightsError: They are for images, and this model is for volumes
                and not ``inflated``; or the other way round.
        """
        return adapt_vit(
            state_dict,
            self.state_dict(),
            grid=self.grid,
            plane=self._plane,
            antialias=self.antialias,
        )


def _zeros(tokens: int, channels: int) -> nn.Parameter | None:
    return nn.Parameter(torch.zeros(1, tokens, channels)) if tokens else None
