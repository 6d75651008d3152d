"""Test-time augmentation: the views of an image that are averaged."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Self

AVERAGES = ('logits', 'probabilities')


@dataclass(frozen=True)
class Views:
    """Ways to look at an image: at several scales, mirrored along axes.

    Attributes:
        scales: Factors of the image's size.
        flips: The sets of axes along which it is mirrored, ``()`` first.
        average: ``'logits'`` or ``'probabilities'``.
    """

    scales: tuple[float, ...]
    flips: tuple[tuple[int, ...], ...]
    average: str

    @classmethod
    def from_cfg(cls, tta: Mapping | None, spatial_dims: int) -> Self:
        """Read ``test_cfg.tta``.

        Args:
            tta: ``scales``: factors of the image's size; ``flip_axes``:
                spatial axes counted from the end (-1 is the width), every
                combination of which is mirrored; ``average``: by default
                ``'probabilities'`` of images, as mmsegmentation, and
                ``'logits'`` of volumes, as nnU-Net. ``None`` for no
                augmentation.
            spatial_dims: 2 or 3.

        Raises:
            ValueError: An unknown key or word, or an axis that there is not.
        """
        tta = dict(tta or {})
        scales = tuple(tta.pop('scales', (1.0,)))
        axes = tuple(tta.pop('flip_axes', ()))
        average = tta.pop('average', None)
        if tta:
            raise ValueError(
                'test_cfg.tta takes scales and flip_axes, and average, got '
                f'{sorted(tta)}'
            )
        if any(not -spatial_dims <= a <= -1 for a in axes):
            raise ValueError(
                f'flip_axes={axes} must lie in [{-spatial_dims}, -1]: spatial '
                'axes are counted from the end'
            )
        if average is None:
            average = 'logits' if spatial_dims == 3 else 'probabilities'
        if average not in AVERAGES:
            raise ValueError(
                f'test_cfg.tta.average must be one of {AVERAGES}, '
                f'got {average!r}'
            )
        flips = chain.from_iterable(
            combinations(axes, n) for n in range(len(axes) + 1)
        )
        return cls(scales, tuple(flips), average)

    @property
    def single(self) -> bool:
        """There is nothing to average: the image as it is."""
        return self.scales == (1.0,) and self.flips == ((),)
