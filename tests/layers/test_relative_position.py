import itertools
import math

import pytest
import torch
from torch import nn

from upernet_ext.layers.relative_position import (
    RelativePositionBias,
    relative_position_index,
    resample_relative_position,
)


def bias_of(window: tuple[int, ...]) -> RelativePositionBias:
    bias = RelativePositionBias(window, num_heads=2)
    nn.init.normal_(bias.relative_position_bias_table)
    return bias


@pytest.mark.parametrize('grid', [(3, 5), (2, 4, 3)])
def test_bias_is_one_number_a_displacement(grid: tuple[int, ...]) -> None:
    index = relative_position_index(grid)
    rows = {}
    places = list(itertools.product(*map(range, grid)))
    for i, here in enumerate(places, 1):
        for j, there in enumerate(places, 1):
            step = tuple(a - b for a, b in zip(here, there, strict=True))
            assert rows.setdefault(step, index[i, j]) == index[i, j]
    entries = math.prod(2 * size - 1 for size in grid)
    assert len(rows) == entries
    assert {int(row) for row in rows.values()} == set(range(entries))
    # the class token: to a patch, from a patch, to itself
    assert set(index[0, 1:].tolist()) == {entries}
    assert set(index[1:, 0].tolist()) == {entries + 1}
    assert index[0, 0] == entries + 2


@pytest.mark.parametrize('grid', [(2, 4), (2, 3, 4)])
def test_axes_are_alike(grid: tuple[int, ...]) -> None:
    """Swapping two axes of image and table swaps the bias's."""
    bias, swapped = bias_of(grid), bias_of((grid[1], grid[0], *grid[2:]))
    table = bias.relative_position_bias_table.data
    field = table[:-3].unflatten(0, [2 * size - 1 for size in grid])
    swapped.relative_position_bias_table.data = torch.cat(
        [field.transpose(0, 1).flatten(0, -2), table[-3:]]
    )
    order = torch.arange(math.prod(grid)).reshape(grid).transpose(0, 1)
    order = torch.cat([torch.zeros(1, dtype=int), order.flatten() + 1])
    wanted = bias(grid, relative_position_index(grid))[:, order][:, :, order]
    found = swapped(swapped.window, relative_position_index(swapped.window))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ('window', 'grid'), [((4, 4), (3, 6)), ((3, 3, 3), (2, 5, 4))]
)
def test_another_grid_is_resampled(
    window: tuple[int, ...], grid: tuple[int, ...]
) -> None:
    bias = bias_of(window)
    table = resample_relative_position(
        bias.relative_position_bias_table, window, grid
    )
    index = relative_position_index(grid)
    assert torch.equal(bias(grid, index), table[index].permute(2, 0, 1))
    # the three of the class token, and no displacement at all, are kept
    old = bias.relative_position_bias_table
    assert torch.equal(table[-3:], old[-3:])
    centre, old_centre = (len(table) - 3) // 2, (len(old) - 3) // 2
    torch.testing.assert_close(table[centre], old[old_centre])
