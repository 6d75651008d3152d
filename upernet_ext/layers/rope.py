"""Rotary position embedding on a grid of any rank.

RoFormer, https://arxiv.org/abs/2104.09864, axis by axis as in DINOv3
(dinov3/layers/rope_position_encoding.py) and EVA-02
(https://arxiv.org/abs/2303.11331).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn


class Rotation(NamedTuple):
    """How much each pair of channels of each patch is turned.

    Attributes:
        cos: Cosines of the angles, ``(L, head_dim)``.
        sin: Sines of the same.
        interleaved: A pair is two neighbours; otherwise one channel of the
            first half and one of the second.
    """

    cos: Tensor
    sin: Tensor
    interleaved: bool

    def turn(self, x: Tensor) -> Tensor:
        """Turn the last ``L`` tokens of ``(N, heads, prefix + L, head_dim)``.

        Computed in the precision of the angles, which low ones would lose.
        """
        prefix, x = x.split([x.shape[-2] - len(self.cos), len(self.cos)], -2)
        if self.interleaved:
            turned = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        else:
            first, second = x.chunk(2, -1)
            turned = torch.cat([-second, first], -1)
        x = (x * self.cos + turned * self.sin).to(prefix.dtype)
        return torch.cat([prefix, x], -2)


class AxialRope(nn.Module):
    """Angles that grow along each axis; the axes share the channels equally.

    In 2D half of the channels turn with the row and half with the column; in
    3D a third each, and what does not divide stays as it is.

    Args:
        head_dim: Channels of a head; even.
        base: Ratio of the slowest to the fastest turn, nearly.
        reference_grid: ``None`` for DINOv3's coordinates: the image is
            ``[-1, 1]``, a unit is a full turn. A number for EVA-02's: the
            image is ``[0, reference_grid)``, a unit is one radian. ``'own'``
            for Primus's: a patch is one radian, however many there are.
        interleaved: Which channels are a pair; see ``Rotation``.
        axes: ``'all'``, or ``'yx'`` for the last two alone, half of the
            channels each: every slice of a volume is turned as an image.

    Raises:
        ValueError: An odd ``head_dim``, or unknown ``axes``.
    """

    def __init__(
        self,
        head_dim: int,
        *,
        base: float = 100.0,
        reference_grid: int | Literal['own'] | None = None,
        interleaved: bool = False,
        axes: Literal['all', 'yx'] = 'all',
    ) -> None:
        super().__init__()
        if head_dim % 2:
            raise ValueError(
                f'rotary embeddings turn pairs of channels, but a head has '
                f'{head_dim}; choose num_heads so that it is even'
            )
        if axes not in ('all', 'yx'):
            raise ValueError(
                f"rope axes={axes!r} is unknown; choose 'all' or 'yx'"
            )
        self.head_dim = head_dim
        self.base = base
        self.reference_grid = reference_grid
        self.interleaved = interleaved
        self.axes = axes

    def _coordinates(self, size: int, device: torch.device) -> Tensor:
        """Angle of the fastest turn at each patch of an axis."""
        index = torch.arange(size, dtype=torch.float32, device=device)
        if self.reference_grid == 'own':
            return index
        if self.reference_grid is not None:
            return index / size * self.reference_grid
        return 2 * math.pi * (2 * (index + 0.5) / size - 1)

    def forward(self, grid: Sequence[int], device: torch.device) -> Rotation:
        """Compute the angles of a grid of patches, in float32."""
        slices = 1
        if self.axes == 'yx':
            slices, grid = math.prod(grid[:-2]), grid[-2:]
        count = self.head_dim // (2 * len(grid))
        exponents = torch.arange(count, dtype=torch.float32, device=device)
        frequencies = self.base ** -(exponents / count)
        axes = [self._coordinates(size, device) for size in grid]
        places = torch.stack(torch.meshgrid(*axes, indexing='ij'), -1)
        angles = (
            (places.unsqueeze(-1) * frequencies).flatten(-2).flatten(0, -2)
        )
        rest = self.head_dim // 2 - angles.shape[1]
        angles = nn.functional.pad(angles, (0, rest)).repeat(slices, 1)
        if self.interleaved:
            angles = angles.repeat_interleave(2, -1)
        else:
            angles = angles.tile(2)
        return Rotation(angles.cos(), angles.sin(), self.interleaved)
