"""Attention inside the windows of a grid of any rank, shifted or not.

Swin, https://arxiv.org/abs/2103.14030, section 3.2, and Swin V2,
https://arxiv.org/abs/2111.09883, section 3. Parameter names and the order of
the bias table are those of microsoft/Swin-Transformer.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .linear import Linear
from .relative_position import relative_position_index


def pad_grid(x: Tensor, divisor: Sequence[int]) -> Tensor:
    """Pad the far end of every axis of ``(N, *S, C)`` to a multiple.

    With zeros, as every published Swin does; but along the depth of a volume
    with its last slice, so that one of equal slices stays one.
    """
    pads = [-s % d for s, d in zip(x.shape[1:-1], divisor, strict=True)]
    if len(pads) == 3 and pads[0]:
        x = torch.cat([x, x[:, -1:].expand(-1, pads[0], -1, -1, -1)], 1)
        pads[0] = 0
    flat = [n for p in reversed(pads) for n in (0, p)]
    return F.pad(x, (0, 0, *flat)) if any(pads) else x


class Windows:
    """How the tokens of a grid fall into windows.

    An axis that fits into one window is one, without padding and shift. The
    padding of the others is seen by the attention as tokens of zeros, as in
    every published network; but not that along the depth of a volume.

    Args:
        grid: Tokens an axis.
        window: Tokens an axis of a window.
        shifted: Move the windows by half a window; what leaves the grid at
            one end enters at the other, where it is a window of its own.
        device: Of the masks.

    Attributes:
        size: Tokens an axis of a window on this grid.
    """

    def __init__(
        self,
        grid: Sequence[int],
        window: Sequence[int],
        *,
        shifted: bool,
        device: torch.device | None = None,
    ) -> None:
        self.grid, self.window = tuple(grid), tuple(window)
        self.device = device
        axes = list(zip(self.grid, self.window, strict=True))
        self.size = tuple(min(tokens, edge) for tokens, edge in axes)
        self.shift = tuple(
            edge // 2 if shifted and tokens > edge else 0
            for tokens, edge in axes
        )
        self.counts = tuple(-(-tokens // edge) for tokens, edge in axes)

    def split(self, x: Tensor) -> Tensor:
        """Cut ``(N, *grid, C)`` into ``(N, windows, tokens, C)``."""
        rank = len(self.grid)
        x = pad_grid(x, self.size)
        if any(self.shift):
            x = x.roll([-s for s in self.shift], list(range(1, rank + 1)))
        for axis, edge in enumerate(self.size):
            x = x.unflatten(2 * axis + 1, (-1, edge))
        outer, inner = range(1, 2 * rank, 2), range(2, 2 * rank + 1, 2)
        x = x.permute(0, *outer, *inner, -1)
        return x.flatten(rank + 1, -2).flatten(1, rank)

    def join(self, x: Tensor) -> Tensor:
        """Undo ``split``."""
        rank = len(self.grid)
        x = x.unflatten(2, self.size).unflatten(1, self.counts)
        pairs = [i for n in range(1, rank + 1) for i in (n, n + rank)]
        x = x.permute(0, *pairs, -1)
        for axis in range(1, rank + 1):
            x = x.flatten(axis, axis + 1)
        if any(self.shift):
            x = x.roll(self.shift, list(range(1, rank + 1)))
        for axis, tokens in enumerate(self.grid, 1):
            x = x.narrow(axis, 0, tokens)
        return x

    @cached_property
    def index(self) -> Tensor:
        """Row of a table of distances in ``window``: query x key."""
        rows = relative_position_index(self.window, self.device)[1:, 1:]
        places = torch.arange(len(rows), device=self.device)
        places = places.unflatten(0, self.window)
        places = places[tuple(slice(edge) for edge in self.size)].flatten()
        return rows[places][:, places]

    @cached_property
    def groups(self) -> list[tuple[Tensor | slice, Tensor | None]]:
        """Windows that see the same, each with what its tokens may see.

        Numbers of the windows, and ``(tokens, tokens)``: true where a query
        sees a key; ``None`` where it sees all.
        """
        groups = list(self._groups())
        if len(groups) == 1:
            return [(slice(None), groups[0][1])]
        return groups

    def _groups(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        numbers = torch.arange(math.prod(self.counts), device=self.device)
        numbers = numbers.unflatten(0, self.counts)
        axes = [self._parts(axis).items() for axis in range(len(self.grid))]
        for kinds in product(*axes):
            chosen = numbers
            for axis, (_, windows) in enumerate(kinds):
                windows = torch.tensor(windows, device=self.device)
                chosen = chosen.index_select(axis, windows)
            if all(len(set(parts)) == 1 for parts, _ in kinds):
                yield chosen.flatten(), None
                continue
            parts = [torch.tensor(p, device=self.device) for p, _ in kinds]
            parts = torch.cartesian_prod(*parts)
            yield chosen.flatten(), (parts[:, None] == parts).all(-1)

    def _parts(self, axis: int) -> dict[tuple[int, ...], list[int]]:
        """Tell the windows of an axis by the parts they are made of.

        Part 0 is the grid, 1 what was moved to the far end, 2 the padding
        along the depth.
        """
        tokens, edge = self.grid[axis], self.size[axis]
        shift, padded = self.shift[axis], self.counts[axis] * edge
        deep = len(self.grid) == 3 and axis == 0
        kinds = {}
        for window in range(self.counts[axis]):
            places = [
                (i + shift) % padded
                for i in range(window * edge, (window + 1) * edge)
            ]
            parts = tuple(
                2 if deep and place >= tokens else int(place < shift)
                for place in places
            )
            # All of one part see one another, whichever it is.
            parts = (0,) * edge if len(set(parts)) == 1 else parts
            kinds.setdefault(parts, []).append(window)
        return kinds


class WindowAttention(nn.Module):
    """Multi-head self-attention in windows, with a bias for each distance.

    Args:
        embed_dims: Channels of a token.
        num_heads: Heads; divides ``embed_dims``.
        window: Tokens an axis of the largest window; a smaller one takes the
            bias of the same distances.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, *, window: Sequence[int]
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window = tuple(window)
        self.qkv = Linear(embed_dims, 3 * embed_dims)
        self.proj = Linear(embed_dims, embed_dims)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros(
                math.prod(2 * edge - 1 for edge in self.window), num_heads
            )
        )

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Attend over the tokens of each window of ``(N, *grid, C)``."""
        qkv = self._project(windows.split(x))
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(
            3, 0, 1, 4, 2, 5
        )
        q, k, scale = self._similarity(q, k)
        bias = self._table()[windows.index].permute(2, 0, 1).to(q.dtype)
        attended = torch.empty_like(v)
        for numbers, visible in windows.groups:
            mask = bias
            if visible is not None:
                mask = bias.masked_fill(~visible, -math.inf)
            attended[:, numbers] = F.scaled_dot_product_attention(
                *(t[:, numbers].flatten(0, 1) for t in (q, k, v)),
                attn_mask=mask[None],
                scale=scale,
            ).unflatten(0, (len(x), -1))
        return windows.join(self.proj(attended.transpose(2, 3).flatten(3)))

    def _project(self, x: Tensor) -> Tensor:
        return self.qkv(x)

    def _similarity(
        self, q: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor, float | None]:
        """Prepare queries and keys; ``None`` is one over the root of C."""
        return q, k, None

    def _table(self) -> Tensor:
        """Bias of each distance in the window: ``(distances, heads)``."""
        return self.relative_position_bias_table


class CosineWindowAttention(WindowAttention):
    """Swin V2's: the cosine of query and key, and a bias from a small MLP.

    Args:
        embed_dims: Channels of a token.
        num_heads: Heads; divides ``embed_dims``.
        window: Tokens an axis of the largest window.
        unit: Tokens an axis of the window that distances are measured by:
            that of the training images; by default ``window``.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        *,
        window: Sequence[int],
        unit: Sequence[int] | None = None,
    ) -> None:
        super().__init__(embed_dims, num_heads, window=window)
        del self.relative_position_bias_table
        self.unit = tuple(unit or window)
        self.qkv = Linear(embed_dims, 3 * embed_dims, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(embed_dims))
        self.v_bias = nn.Parameter(torch.zeros(embed_dims))
        self.logit_scale = nn.Parameter(
            torch.full((num_heads, 1, 1), math.log(10))
        )
        self.cpb_mlp = nn.Sequential(
            nn.Linear(len(self.window), 512),
            nn.ReLU(inplace=True),
            nn.Linear(512, num_heads, bias=False),
        )

    def _project(self, x: Tensor) -> Tensor:
        none = torch.zeros_like(self.q_bias)
        bias = torch.cat([self.q_bias, none, self.v_bias])
        qkv = self.qkv(x)
        return qkv + bias.to(qkv.dtype)

    def _similarity(
        self, q: Tensor, k: Tensor
    ) -> tuple[Tensor, Tensor, float | None]:
        # At most 100, section 3.2.
        scale = self.logit_scale.clamp(max=math.log(100)).exp()
        q = F.normalize(q, dim=-1) * scale.to(q.dtype)
        return q, F.normalize(k, dim=-1), 1.0

    def _table(self) -> Tensor:
        axes = [
            torch.arange(1 - edge, edge, device=self.logit_scale.device)
            * (8 / max(unit - 1, 1))
            for edge, unit in zip(self.window, self.unit, strict=True)
        ]
        distances = torch.cartesian_prod(*axes).to(self.logit_scale.dtype)
        # Log-spaced, equation 4, and 8 is one.
        distances = distances.sign() * (distances.abs() + 1).log2() / 3
        return 16 * self.cpb_mlp(distances).sigmoid()
