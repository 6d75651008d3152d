"""Test-time augmentation: the views of an image that are averaged."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """One way to look at an image: at a scale, mirrored along axes."""

    scale: float = 1.0
    flipped: tuple[int, ...] = ()


def views(tta: Mapping | None, spatial_dims: int) -> list[View]:
    """List the views of a test-time augmentation; one where there is none.

    Args:
        tta: ``scales``: factors of the image's size; ``flip_axes``: spatial
            axes counted from the end (-1 is the width), every combination of
            which is mirrored. ``None`` for no augmentation.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: An unknown key, or an axis that there is not.
    """
    tta = dict(tta or {})
    scales = tta.pop('scales', (1.0,))
    axes = tuple(tta.pop('flip_axes', ()))
    if tta:
        raise ValueError(
            f'test_cfg.tta takes scales and flip_axes, got {sorted(tta)}'
        )
    if any(not -spatial_dims <= a <= -1 for a in axes):
        raise ValueError(
            f'flip_axes={axes} must lie in [{-spatial_dims}, -1]: spatial '
            'axes are counted from the end'
        )
    subsets = itertools.chain.from_iterable(
        itertools.combinations(axes, n) for n in range(len(axes) + 1)
    )
    return [View(scale, flipped) for flipped in subsets for scale in scales]
