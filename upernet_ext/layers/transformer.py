"""The block of a plain vision transformer, in all its published forms.

ViT, https://arxiv.org/abs/2010.11929; layer scale from CaiT,
https://arxiv.org/abs/2103.17239; SwiGLU, https://arxiv.org/abs/2002.05202,
with a norm inside as in EVA-02, https://arxiv.org/abs/2303.11331.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .linear import Linear
from .recomputed_input import linear_of, linear_of_norm
from .relative_position import RelativePositionBias
from .rope import Rotation

_NO_NORM = nn.Identity()


class Positions(NamedTuple):
    """What the blocks are told of the tokens' places.

    Attributes:
        grid: Patches an axis.
        rotation: Turn of the queries and keys; ``None`` for none.
        bias: Bias of the attention that all blocks share.
        index: ``relative_position_index(grid)``, for blocks with a bias of
            their own.
        num_prefix_tokens: Tokens before the patches.
        prefix_copies: How many keys a prefix token counts for; the shared
            ``bias`` has it in.
    """

    grid: Sequence[int]
    rotation: Rotation | None = None
    bias: Tensor | None = None
    index: Tensor | None = None
    num_prefix_tokens: int = 0
    prefix_copies: int = 1

    def copy_prefix(self, x: Tensor) -> Tensor:
        """Repeat the prefix of keys or values ``(N, heads, L, head_dim)``.

        As log(copies) added to their scores, without a mask, which the
        fastest attention kernels do not take.
        """
        if self.prefix_copies == 1 or not self.num_prefix_tokens:
            return x
        prefix = x[:, :, : self.num_prefix_tokens]
        return torch.cat([*[prefix] * (self.prefix_copies - 1), x], 2)


class Attention(nn.Module):
    """Multi-head self-attention with one fused q, k, v projection.

    Args:
        embed_dims: Channels of a token.
        num_heads: Heads; divides ``embed_dims``.
        qkv_bias: Give q, k and v a bias; ``'qv'`` only q and v, under names
            of their own (BEiT, EVA-02, DINOv3).
        window: Patches an axis of an own relative position bias; ``None``
            for none.
        attn_norm_eps: Of a layer norm before the output projection (EVA-02's
            CLIP, Primus); ``None`` for no norm.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        qkv_bias: bool | Literal['qv'] = True,
        window: Sequence[int] | None = None,
        attn_norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=qkv_bias is True)
        separate = qkv_bias == 'qv'
        self.q_bias = _zeros(embed_dims) if separate else None
        self.v_bias = _zeros(embed_dims) if separate else None
        self.rel_pos_bias = (
            RelativePositionBias(window, num_heads) if window else None
        )
        self.norm = _norm(embed_dims, attn_norm_eps)
        self.proj = Linear(embed_dims, embed_dims)

    def forward(
        self,
        x: Tensor,
        positions: Positions,
        norm: nn.Module = _NO_NORM,
    ) -> Tensor:
        """Attend over ``norm`` of the tokens ``(N, L, embed_dims)``."""
        qkv = linear_of_norm(self.qkv, norm, x)
        if self.q_bias is not None:
            none = torch.zeros_like(self.q_bias)
            bias = torch.cat([self.q_bias, none, self.v_bias])
            qkv = qkv + bias.to(qkv.dtype)
        qkv = qkv.unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if positions.rotation is not None:
            q, k = positions.rotation.turn(q), positions.rotation.turn(k)
        bias = positions.bias
        if self.rel_pos_bias is not None:
            own = self.rel_pos_bias(
                positions.grid, positions.index, positions.prefix_copies
            )
            bias = own if bias is None else bias + own
        if bias is None:
            k, v = positions.copy_prefix(k), positions.copy_prefix(v)
        else:
            bias = bias.to(q.dtype)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return linear_of_norm(
            self.proj, self.norm, x.transpose(1, 2).flatten(2)
        )


def _norm(channels: int, eps: float | None) -> nn.Module:
    return nn.Identity() if eps is None else nn.LayerNorm(channels, eps=eps)


def _zeros(channels: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(channels))


class MLP(nn.Module):
    """Two linear layers with GELU between, as timm's ``Mlp``."""

    def __init__(self, embed_dims: int, hidden_dims: int) -> None:
        super().__init__()
        self.fc1 = Linear(embed_dims, hidden_dims)
        self.fc2 = Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor, norm: nn.Module = _NO_NORM) -> Tensor:
        """Transform ``norm`` of each token of ``(N, L, embed_dims)``."""
        hidden = linear_of_norm(self.fc1, norm, x)
        return linear_of(self.fc2, F.gelu, hidden)


class SwiGLU(nn.Module):
    """``fc2(norm(silu(gate) * value))``, gate and value both from ``fc1``.

    Args:
        embed_dims: Channels of a token.
        hidden_dims: Channels of the gate, and of the value.
        norm_eps: Of a layer norm before ``fc2``; ``None`` for no norm.
    """

    def __init__(
        self,
        embed_dims: int,
        hidden_dims: int,
        *,
        norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        self.fc1 = Linear(embed_dims, 2 * hidden_dims)
        self.norm = _norm(hidden_dims, norm_eps)
        self.fc2 = Linear(hidden_dims, embed_dims)

    def forward(self, x: Tensor, norm: nn.Module = _NO_NORM) -> Tensor:
        """Transform ``norm`` of each token of ``(N, L, embed_dims)``."""
        hidden = linear_of_norm(self.fc1, norm, x)
        return linear_of_norm(self.fc2, self.norm, hidden, before=_swiglu)


def _swiglu(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, -1)
    return F.silu(gate) * value


class LayerScale(nn.Module):
    """A learned factor a channel; key ``gamma``."""

    def __init__(self, embed_dims: int, init_value: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((embed_dims,), float(init_value)))

    def forward(self, x: Tensor) -> Tensor:
        """Scale ``(N, L, embed_dims)``."""
        return x * self.gamma


class TransformerBlock(nn.Module):
    """A pre-norm transformer block.

    Args:
        embed_dims: Channels of a token.
        num_heads: Attention heads.
        mlp_ratio: Hidden channels of the MLP over ``embed_dims``.
        mlp: ``'gelu'``, ``'swiglu'``, or ``'swiglu-norm'`` with a norm
            inside.
        qkv_bias: See ``Attention``.
        window: See ``Attention``.
        attn_norm: Norm what was attended before its projection.
        init_values: Start of the layer scale; 0 for none.
        drop_path: Probability to skip each branch, per sample.
        norm_eps: Of the layer norms.

    Raises:
        ValueError: An unknown ``mlp``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        mlp_ratio: float = 4.0,
        mlp: Literal['gelu', 'swiglu', 'swiglu-norm'] = 'gelu',
        qkv_bias: bool | Literal['qv'] = True,
        window: Sequence[int] | None = None,
        attn_norm: bool = False,
        init_values: float = 0.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()

        def scale() -> nn.Module:
            if not init_values:
                return nn.Identity()
            return LayerScale(embed_dims, init_values)

        self.norm1 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.attn = Attention(
            embed_dims,
            num_heads,
            qkv_bias=qkv_bias,
            window=window,
            attn_norm_eps=norm_eps if attn_norm else None,
        )
        self.ls1 = scale()
        self.norm2 = nn.LayerNorm(embed_dims, eps=norm_eps)
        self.mlp = self._build_mlp(
            mlp, embed_dims, int(embed_dims * mlp_ratio), norm_eps
        )
        self.ls2 = scale()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    @staticmethod
    def _build_mlp(
        kind: str, embed_dims: int, hidden_dims: int, norm_eps: float
    ) -> nn.Module:
        if kind == 'gelu':
            return MLP(embed_dims, hidden_dims)
        if kind not in ('swiglu', 'swiglu-norm'):
            raise ValueError(
                f"mlp={kind!r} is unknown; choose 'gelu', 'swiglu' or "
                "'swiglu-norm'"
            )
        norm_eps = norm_eps if kind == 'swiglu-norm' else None
        return SwiGLU(embed_dims, hidden_dims, norm_eps=norm_eps)

    def forward(self, x: Tensor, positions: Positions) -> Tensor:
        """Transform the tokens ``(N, L, embed_dims)``."""
        attended = self.attn(x, positions, self.norm1)
        x = x + self.drop_path(self.ls1(attended))
        return x + self.drop_path(self.ls2(self.mlp(x, self.norm2)))
