"""A ViT for images in full attention over a volume."""

import math

import pytest
import torch
from torch import nn

from upernet_ext.layers.transformer import Attention, Positions
from upernet_ext.models import VisionTransformer

from .conftest import FAMILIES, difference, inflated, slices, vit


class _PrefixOnce(VisionTransformer):
    """Without log(D): prefix tokens are one key among D times the patches."""

    def _positions(self, grid: tuple[int, ...], *args) -> Positions:
        places = super()._positions(grid, *args)
        if self.rel_pos_bias is not None:
            bias = self.rel_pos_bias(grid, places.index)
            places = places._replace(bias=bias)
        return places._replace(prefix_copies=1)


@pytest.mark.parametrize(
    ('size', 'depth'), [((32, 32), 12), ((20, 51), 10), ((20, 51), 2)]
)
@pytest.mark.parametrize('family', FAMILIES)
@torch.no_grad()
def test_identical_slices_give_what_an_image_gives(
    family: str, size: tuple[int, int], depth: int
) -> None:
    images = vit(family)
    volumes, _ = inflated(images, family)
    assert difference(volumes, images, slices(size, depth)) <= 1e-4


@pytest.mark.parametrize('family', FAMILIES)
@torch.no_grad()
def test_exactness_in_double_precision(family: str) -> None:
    """2e-14 was measured; on the grid of the weights, for tables are
    resampled in float32.
    """
    images = vit(family).double()
    volumes, _ = inflated(images, family)
    volume = slices((32, 32)).double()
    assert difference(volumes.double(), images, volume) <= 2e-13


@pytest.mark.parametrize('family', FAMILIES)
@torch.no_grad()
def test_prefix_tokens_that_count_once_are_outvoted(family: str) -> None:
    """0.4 to 1.8 standard deviations were measured, with three patches."""
    images = vit(family)
    volumes, _ = inflated(images, family, cls=_PrefixOnce)
    assert difference(volumes, images, slices((32, 32))) > 0.1


@torch.no_grad()
def test_rotary_positions_of_z_would_not_be_an_image_s() -> None:
    images = vit('DINOv3')
    rope = dict(base=100.0, axes='all')
    volumes, _ = inflated(images, 'DINOv3', rope=rope)
    assert difference(volumes, images, slices((32, 32))) > 0.1


@pytest.mark.parametrize('family', FAMILIES)
@torch.no_grad()
def test_depth_is_seen_once_its_embedding_is_not_zero(family: str) -> None:
    """Slices that change places change those of the features, or more."""
    volumes, _ = inflated(vit(family), family)
    volume = torch.randn(1, 3, 16, 32, 32)
    shuffled = volume.roll(4, 2)  # a patch
    for level, moved in zip(volumes(volume), volumes(shuffled), strict=True):
        torch.testing.assert_close(
            moved, level.roll(1, 2), rtol=1e-3, atol=1e-3
        )
        # and they see each other: slices are no batch
        assert (level[:, :, :1] - level).abs().max() > 0.1
    nn.init.normal_(volumes.z_pos_embed)
    last, moved = volumes(volume)[-1], volumes(shuffled)[-1]
    assert (moved - last.roll(1, 2)).abs().max() > 0.1 * last.std()


@torch.no_grad()
def test_copies_of_a_key_are_a_log_on_its_score() -> None:
    layer = Attention(24, 3).double()
    tokens = torch.randn(2, 2 + 6, 24).double()
    found = layer(
        tokens, Positions((3, 2, 1), num_prefix_tokens=2, prefix_copies=3)
    )
    mask = torch.zeros(1, 1, 8, 8).double()
    mask[..., :2] = math.log(3)
    wanted = layer(tokens, Positions((3, 2, 1), bias=mask))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)
    once = layer(tokens, Positions((3, 2, 1)))
    assert (found - once).abs().max() > 1e-3


@torch.no_grad()
def test_slices_attend_to_each_other() -> None:
    volumes, _ = inflated(vit(), 'MAE')
    volume = torch.randn(1, 3, 16, 32, 32)
    changed = volume.clone()
    changed[:, :, 12:] = torch.randn(1, 3, 4, 32, 32)
    first, other = volumes(volume)[-1], volumes(changed)[-1]
    assert (first - other)[:, :, 0].abs().max() > 0.01 * first.std()


@pytest.mark.parametrize('family', FAMILIES)
def test_names_are_those_of_images_and_one_more(family: str) -> None:
    images = vit(family)
    volumes, receipt = inflated(images, family)
    names = set(images.state_dict())
    assert set(volumes.state_dict()) == names | {'z_pos_embed'}
    assert volumes.added_keys == ('z_pos_embed',)
    assert images.added_keys == ()
    changes = {change.name: change.kind for change in receipt.changes}
    assert changes.pop('z_pos_embed') == 'set'
    assert changes.pop('patch_embed.proj.weight') == 'reshaped'
    assert all(name.endswith('position_bias_table') for name in changes)
    assert not volumes.z_pos_embed.any()
    # It is as new as the heads, and learns as fast.
    assert volumes.get_layer_depth('z_pos_embed') == (4, 5)
