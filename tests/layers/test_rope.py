import itertools
import math

import pytest
import torch

from upernet_ext.layers.rope import AxialRope

CPU = torch.device('cpu')
FORMS = {
    'DINOv3': dict(base=100.0),
    'EVA-02': dict(base=10000.0, reference_grid=16, interleaved=True),
}


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('grid', [(3, 5), (2, 4, 3)])
@pytest.mark.parametrize('head_dim', [16, 22])
def test_scores_depend_on_the_displacement_only(
    form: str, grid: tuple[int, ...], head_dim: int
) -> None:
    rotation = AxialRope(head_dim, **FORMS[form])(grid, CPU)
    size = math.prod(grid)
    # one query and one key, put at every patch
    q = rotation.turn(torch.randn(head_dim).expand(1, 1, size, head_dim))
    k = rotation.turn(torch.randn(head_dim).expand(1, 1, size, head_dim))
    scores = (q @ k.mT)[0, 0]
    places = list(itertools.product(*map(range, grid)))
    seen = {}
    for i, here in enumerate(places):
        for j, there in enumerate(places):
            step = tuple(a - b for a, b in zip(here, there, strict=True))
            wanted = seen.setdefault(step, scores[i, j])
            torch.testing.assert_close(
                scores[i, j], wanted, rtol=1e-4, atol=1e-4
            )
    # ... and on it along every axis: no two steps give the same score
    values = torch.stack(list(seen.values())).sort().values
    assert values.diff().min() > 0


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('grid', [(3, 5), (2, 4, 3)])
def test_turning_keeps_lengths_and_prefix_tokens(
    form: str, grid: tuple[int, ...]
) -> None:
    rotation = AxialRope(16, **FORMS[form])(grid, CPU)
    x = torch.randn(2, 3, 5 + math.prod(grid), 16)
    turned = rotation.turn(x)
    assert torch.equal(turned[:, :, :5], x[:, :, :5])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert not torch.allclose(turned[:, :, 5:], x[:, :, 5:])


def test_three_axes_share_the_channels_of_a_head() -> None:
    rotation = AxialRope(64)((2, 1, 1), CPU)
    still = (rotation.cos == 1) & (rotation.sin == 0)
    # 10 pairs an axis of 32: a single patch lies at the centre, which is 0
    assert (~still).any(0).sum() == 2 * 10
    assert AxialRope(64)((1, 1), CPU).sin.abs().max() == 0


@pytest.mark.parametrize('form', FORMS)
def test_slices_of_a_volume_are_turned_as_images(form: str) -> None:
    image = AxialRope(16, **FORMS[form])((3, 5), CPU)
    volume = AxialRope(16, **FORMS[form], axes='yx')((4, 3, 5), CPU)
    for found, wanted in zip(volume[:2], image[:2], strict=True):
        assert torch.equal(
            found.unflatten(0, (4, 15)), wanted.expand(4, -1, -1)
        )


def test_a_patch_is_a_radian_on_its_own_grid() -> None:
    rope = AxialRope(12, reference_grid='own', interleaved=True)
    small, large = rope((2, 3, 4), CPU), rope((3, 5, 4), CPU)
    inside = large.sin.unflatten(0, (3, 5, 4))[:2, :3]
    assert torch.equal(small.sin, inside.flatten(0, 2))
    # the fastest pair of y, at its third patch
    assert large.sin.unflatten(0, (3, 5, 4))[0, 2, 0, 4] == torch.sin(
        torch.tensor(2.0)
    )


def test_low_precision_is_turned_in_full_precision() -> None:
    rotation = AxialRope(16)((4, 4), CPU)
    x = torch.randn(1, 1, 16, 16).bfloat16()
    turned = rotation.turn(x)
    assert turned.dtype == torch.bfloat16
    assert torch.equal(turned, rotation.turn(x.float()).bfloat16())


def test_odd_heads_are_refused() -> None:
    with pytest.raises(ValueError, match='pairs of channels, but a head has'):
        AxialRope(15)


def test_unknown_axes_are_refused() -> None:
    with pytest.raises(ValueError, match="axes='zyx' is unknown"):
        AxialRope(12, axes='zyx')
