"""MiT, the encoder of SegFormer, in 2D and 3D.

Paper: SegFormer, https://arxiv.org/abs/2105.15203, section 3.1. Parameter
names and shapes are those of NVlabs/SegFormer
(mmseg/models/backbones/mix_transformer.py). Weights: NVIDIA Source Code
License for SegFormer, for research only.
"""

import re
from collections.abc import Sequence

from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from ...layers.linear import Linear
from ...layers.rank import check_spatial_dims, conv
from ...layers.recomputed_input import linear_of
from ...registry import MODELS
from .encoder import Encoder, PyramidEncoder, select_levels

_NUM_HEADS = (1, 2, 5, 8)
# Table 6: channels of the first stage a head, blocks a stage; and the file of
# the weights, as mmsegmentation converted them.
ARCHITECTURES = {
    'mit_b0': (32, (2, 2, 2, 2), 'mit_b0_20220624-7e0fe6dd.pth'),
    'mit_b1': (64, (2, 2, 2, 2), 'mit_b1_20220624-02e5a6a1.pth'),
    'mit_b2': (64, (3, 4, 6, 3), 'mit_b2_20220624-66e8bf70.pth'),
    'mit_b3': (64, (3, 4, 18, 3), 'mit_b3_20220624-13b1141c.pth'),
    'mit_b4': (64, (3, 8, 27, 3), 'mit_b4_20220624-d588d980.pth'),
    'mit_b5': (64, (3, 6, 40, 3), 'mit_b5_20220624-658746d9.pth'),
}
_MMSEG = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/segformer'


def _entry(arch: str) -> Encoder:
    return Encoder(
        family='mit',
        backbone=dict(type='upernet_ext.MiT', arch=arch),
        source='https://arxiv.org/abs/2105.15203',
        spatial_dims=(2, 3),
        weights=f'{_MMSEG}/{ARCHITECTURES[arch][2]}',
        licence='NVIDIA Source Code License for SegFormer (non-commercial)',
        reference='mmseg, transformers',
    )


ENCODERS = {arch: _entry(arch) for arch in ARCHITECTURES}
_PART = re.compile(r'(patch_embed|block|norm)(\d)\.(?:(\d+)\.)?')


class OverlapPatchEmbed(nn.Module):
    """Project overlapping patches to tokens; keys ``proj`` and ``norm``.

    Args:
        in_channels: Channels in.
        embed_dims: Channels of a token.
        kernel_size: Odd edge of a patch, in pixels.
        stride: Distance between patches, in pixels.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        *,
        kernel_size: int,
        stride: int,
        spatial_dims: int,
    ) -> None:
        super().__init__()
        self.proj = conv(
            in_channels,
            embed_dims,
            kernel_size,
            spatial_dims=spatial_dims,
            stride=stride,
        )
        self.norm = nn.LayerNorm(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, *grid, embed_dims)`` for ``(N, in_channels, *S)``."""
        return self.norm(self.proj(x).movedim(1, -1))


class ReducedAttention(nn.Module):
    """Self-attention of every token to a coarser grid of the same map.

    Args:
        embed_dims: Channels of a token.
        num_heads: Heads; divides ``embed_dims``.
        reduction: Tokens an axis that become one key.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        reduction: int,
        spatial_dims: int,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = Linear(embed_dims, embed_dims)
        self.kv = Linear(embed_dims, 2 * embed_dims)
        self.proj = Linear(embed_dims, embed_dims)
        self.sr = None
        if reduction > 1:
            self.sr = conv(
                embed_dims,
                embed_dims,
                reduction,
                spatial_dims=spatial_dims,
                stride=reduction,
                padding=0,
            )
            self.norm = nn.LayerNorm(embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Attend over the tokens ``(N, *grid, C)``."""
        keys = x
        if self.sr is not None:
            # A thin volume has fewer slices than become one.
            keys = _at_least(x.movedim(-1, 1), self.sr.kernel_size)
            keys = self.norm(self.sr(keys).movedim(1, -1))
        heads = (self.num_heads, -1)
        q = self.q(x).flatten(1, -2).unflatten(-1, heads)
        kv = self.kv(keys).flatten(1, -2).unflatten(-1, (2, *heads))
        k, v = kv.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k, v)
        return self.proj(y.transpose(1, 2).reshape(x.shape))


def _at_least(x: Tensor, size: Sequence[int]) -> Tensor:
    """Repeat the far border of ``(N, C, *S)`` where it is too small."""
    pads = [max(n - s, 0) for s, n in zip(x.shape[2:], size, strict=True)]
    flat = [n for pad in reversed(pads) for n in (0, pad)]
    return F.pad(x, flat, mode='replicate') if any(pads) else x


class DepthwiseConv(nn.Module):
    """A depthwise 3x3 convolution of tokens; key ``dwconv``."""

    def __init__(self, channels: int, *, spatial_dims: int) -> None:
        super().__init__()
        self.dwconv = conv(
            channels, channels, 3, spatial_dims=spatial_dims, groups=channels
        )

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(N, *grid, C)``."""
        return self.dwconv(x.movedim(-1, 1)).movedim(1, -1)


class MixMLP(nn.Module):
    """Two linear layers, a depthwise convolution and GELU between.

    The convolution tells the tokens where they are, by the zeros around the
    map.
    """

    def __init__(self, embed_dims: int, *, spatial_dims: int) -> None:
        super().__init__()
        hidden = 4 * embed_dims
        self.fc1 = Linear(embed_dims, hidden)
        self.dwconv = DepthwiseConv(hidden, spatial_dims=spatial_dims)
        self.fc2 = Linear(hidden, embed_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Transform ``(N, *grid, C)``."""
        return linear_of(self.fc2, F.gelu, self.dwconv(self.fc1(x)))


class Block(nn.Module):
    """Attention and MLP, each behind a norm and around a shortcut.

    Args:
        embed_dims: Channels of a token.
        num_heads: Attention heads.
        reduction: See ``ReducedAttention``.
        spatial_dims: 2 or 3.
        drop_path: Probability to skip each branch, per sample.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        reduction: int,
        spatial_dims: int,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attn = ReducedAttention(
            embed_dims,
            num_heads,
            reduction=reduction,
            spatial_dims=spatial_dims,
        )
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.mlp = MixMLP(embed_dims, spatial_dims=spatial_dims)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Transform the tokens ``(N, *grid, C)``."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@MODELS.register_module()
class MiT(PyramidEncoder, BaseModule):
    """The four stages of a mix transformer, at strides 4, 8, 16 and 32.

    In every stage the keys lie as far apart as the last stage's tokens.

    Args:
        arch: ``'mit_b0'`` to ``'mit_b5'``; or ``None`` and the sizes.
        depths: Blocks a stage.
        projection_dims: Channels a stage.
        num_heads: Attention heads a stage; by default 1, 2, 5, 8.
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        out_indices: Stages that give a map; by default all. Stages behind
            the last one are not built.
        drop_path_rate: Stochastic depth of the last block; linear from 0.
        gradient_checkpointing: Keep only each block's input in training and
            compute the block again in backward.
        init_cfg: mmengine's initialisation config.

    Raises:
        ValueError: An unknown ``arch``, sizes given twice or not at all, or
            not four stages.
    """

    key_family = 'mit'

    def __init__(
        self,
        arch: str | None = None,
        depths: Sequence[int] | None = None,
        *,
        projection_dims: Sequence[int] | None = None,
        num_heads: Sequence[int] = _NUM_HEADS,
        in_channels: int = 3,
        spatial_dims: int = 2,
        out_indices: Sequence[int] | None = None,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        check_spatial_dims(spatial_dims)
        self.depths, dims = _sizes(arch, depths, projection_dims, num_heads)
        self.out_indices = select_levels(out_indices, 4)
        self.out_channels = tuple(dims[i] for i in self.out_indices)
        self.out_strides = tuple(
            (4 * 2**i,) * spatial_dims for i in self.out_indices
        )
        self.gradient_checkpointing = gradient_checkpointing
        for i in range(self.out_indices[-1] + 1):
            embed = OverlapPatchEmbed(
                dims[i - 1] if i else in_channels,
                dims[i],
                kernel_size=3 if i else 7,
                stride=2 if i else 4,
                spatial_dims=spatial_dims,
            )
            blocks = self._build_blocks(
                i, dims[i], num_heads[i], drop_path_rate, spatial_dims
            )
            self.add_module(f'patch_embed{i + 1}', embed)
            self.add_module(f'block{i + 1}', blocks)
            self.add_module(f'norm{i + 1}', nn.LayerNorm(dims[i], eps=1e-6))

    def _build_blocks(
        self,
        stage: int,
        channels: int,
        num_heads: int,
        drop_path_rate: float,
        spatial_dims: int,
    ) -> nn.ModuleList:
        before, last = sum(self.depths[:stage]), max(sum(self.depths) - 1, 1)
        return nn.ModuleList(
            Block(
                channels,
                num_heads,
                reduction=8 // 2**stage,
                spatial_dims=spatial_dims,
                drop_path=drop_path_rate * (before + j) / last,
            )
            for j in range(self.depths[stage])
        )

    def init_weights(self) -> None:
        """Truncated normal 0.02, He's normal for convolutions, biases 0."""
        super().init_weights()
        for module in self.modules():
            weight = getattr(module, 'weight', None)
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif weight is not None and weight.ndim > 2:
                fan_out = weight.numel() // module.in_channels
                nn.init.normal_(weight, std=(2 / fan_out) ** 0.5)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode an image.

        Args:
            x: ``(N, in_channels, *S)``, normalised.

        Returns:
            One map ``(N, C_i, *S_i)`` for each of ``out_indices``.
        """
        maps = []
        for i in range(1, self.out_indices[-1] + 2):
            x = self.get_submodule(f'patch_embed{i}')(x)
            for block in self.get_submodule(f'block{i}'):
                if self.gradient_checkpointing and self.training:
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            x = self.get_submodule(f'norm{i}')(x).movedim(-1, 1)
            maps.append(x)
        return tuple(maps[i] for i in self.out_indices)

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Tell the depth of a parameter: one layer a block.

        0 for the first patches; those of a later stage belong to the block
        before them, and the norm of a stage to its last block. Source: the
        counting of Swin in mmpretrain, whose merging is this one's patches.
        """
        last = sum(self.depths) + 2
        found = _PART.match(name)
        stage = int(found[2]) - 1
        if found[1] == 'block':
            return sum(self.depths[:stage]) + int(found[3]) + 1, last
        done = stage + (found[1] == 'norm')
        return sum(self.depths[:done]), last

    @property
    def unused_pretrained_keys(self) -> tuple[str, ...]:
        """Prefixes in a MiT's file that this model has no use for."""
        behind = range(self.out_indices[-1] + 2, 5)
        return (
            'decode_head.',
            *(
                f'{part}{i}.'
                for i in behind
                for part in ('patch_embed', 'block', 'norm')
            ),
        )


def _sizes(
    arch: str | None,
    depths: Sequence[int] | None,
    dims: Sequence[int] | None,
    num_heads: Sequence[int],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if arch is not None:
        if arch not in ARCHITECTURES:
            raise ValueError(
                f'MiT has no arch {arch!r}; choose one of '
                f'{sorted(ARCHITECTURES)}, or leave arch out and give depths '
                'and projection_dims'
            )
        if depths is not None or dims is not None:
            raise ValueError(
                f'arch={arch!r} tells depths and projection_dims; give '
                'either arch or them'
            )
        width, depths, _ = ARCHITECTURES[arch]
        return depths, tuple(width * heads for heads in _NUM_HEADS)
    given = (depths or (), dims or (), num_heads)
    if any(len(sizes) != 4 for sizes in given):
        raise ValueError(
            'MiT needs arch, or depths, projection_dims and num_heads of its '
            f'four stages; got depths={depths}, projection_dims={dims}, '
            f'num_heads={num_heads}'
        )
    return tuple(depths), tuple(dims)
