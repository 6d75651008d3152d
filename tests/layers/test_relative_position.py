import itertools
import math

import pytest
import torch
from torch import nn

from upernet_ext.layers.relative_position import (
    RelativePositionBias,
    relative_position_index,
    resample_relative_position,
    tile_relative_position,
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


def test_a_volume_has_the_bias_of_an_image_at_every_distance() -> None:
    image, volume = bias_of((3, 2)), bias_of((4, 3, 2))
    table = image.relative_position_bias_table.data
    volume.relative_position_bias_table.data = tile_relative_position(table, 4)
    wanted = image((3, 2), relative_position_index((3, 2)))
    found = volume((4, 3, 2), relative_position_index((4, 3, 2)))
    patches = found[:, 1:, 1:].unflatten(1, (4, 6)).unflatten(3, (4, 6))
    for query, key in itertools.product(range(4), repeat=2):
        assert torch.equal(patches[:, query, :, key], wanted[:, 1:, 1:])
    # and the class token's, as a query and as a key
    assert torch.equal(found[:, 0, :7], wanted[:, 0])
    assert torch.equal(found[:, :7, 0], wanted[:, :, 0])


def test_a_class_token_of_several_copies_weighs_more_as_a_key() -> None:
    bias = bias_of((3, 2))
    index = relative_position_index((3, 2))
    gain = bias((3, 2), index, 5) - bias((3, 2), index)
    wanted = torch.zeros(2, 7, 7)
    wanted[:, :, 0] = math.log(5)
    torch.testing.assert_close(gain, wanted)
