"""Relative position bias of BEiT, of any rank.

BEiT, https://arxiv.org/abs/2106.08254; microsoft/unilm beit/modeling_finetune
.py, whose order of the table is kept.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .rank import resize

# The class token to a patch, a patch to the class token, and to itself.
_NUM_CLASS_ENTRIES = 3


def relative_position_index(
    grid: Sequence[int], device: torch.device | None = None
) -> Tensor:
    """Number the distances between the tokens of a grid.

    Args:
        grid: Patches an axis.
        device: Of the result.

    Returns:
        ``(1 + L, 1 + L)``: the row of ``RelativePositionBias``'s table for
        each query and key; the class token comes first.
    """
    axes = [torch.arange(size, device=device) for size in grid]
    places = torch.stack(torch.meshgrid(*axes, indexing='ij')).flatten(1)
    index = places.new_zeros(places.shape[1], places.shape[1])
    for place, size in zip(places, grid, strict=True):
        distance = place[:, None] - place + size - 1
        index = index * (2 * size - 1) + distance
    entries = math.prod(2 * size - 1 for size in grid)
    index = nn.functional.pad(index, (1, 0, 1, 0))
    index[0] = entries
    index[:, 0] = entries + 1
    index[0, 0] = entries + 2
    return index


def resample_relative_position(
    table: Tensor, window: Sequence[int], grid: Sequence[int]
) -> Tensor:
    """Resample a table to another grid, (tri)linearly as transformers.

    Args:
        table: ``(prod(2 * window - 1) + 3, heads)``.
        window: Patches an axis it was made for.
        grid: Patches an axis that are wanted.

    Returns:
        ``(prod(2 * grid - 1) + 3, heads)``; the last three rows are kept.
    """
    if tuple(window) == tuple(grid):
        return table
    field, rest = table[:-_NUM_CLASS_ENTRIES], table[-_NUM_CLASS_ENTRIES:]
    field = field.T.unflatten(1, [2 * size - 1 for size in window])[None]
    field = resize(field.float(), [2 * size - 1 for size in grid])
    return torch.cat([field[0].flatten(1).T.to(table.dtype), rest])


def tile_relative_position(table: Tensor, depth: int) -> Tensor:
    """Give an image's table the distances along z, all with the same bias.

    Args:
        table: ``(prod(2 * window - 1) + 3, heads)``, of a window ``(h, w)``.
        depth: Patches along z.

    Returns:
        The table of the window ``(depth, h, w)``.
    """
    field, rest = table[:-_NUM_CLASS_ENTRIES], table[-_NUM_CLASS_ENTRIES:]
    return torch.cat([field.repeat(2 * depth - 1, 1), rest])


class RelativePositionBias(nn.Module):
    """A learned number for each distance and head.

    Args:
        window: Patches an axis that the table is kept for; other grids are
            resampled to.
        num_heads: Attention heads.
    """

    def __init__(self, window: Sequence[int], num_heads: int) -> None:
        super().__init__()
        self.window = tuple(window)
        entries = math.prod(2 * size - 1 for size in self.window)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros(entries + _NUM_CLASS_ENTRIES, num_heads)
        )

    def forward(
        self, grid: Sequence[int], index: Tensor, class_copies: int = 1
    ) -> Tensor:
        """Look up the bias ``(heads, 1 + L, 1 + L)`` of the attention.

        Args:
            grid: Patches an axis.
            index: ``relative_position_index(grid)``.
            class_copies: How many keys the class token counts for.
        """
        table = resample_relative_position(
            self.relative_position_bias_table, self.window, grid
        )
        if class_copies > 1:
            # What attends to n equal keys adds log(n) to the score of one.
            weight = torch.zeros_like(table[:, :1])
            weight[-2:] = math.log(class_copies)
            table = table + weight
        return table[index].permute(2, 0, 1)
