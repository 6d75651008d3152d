"""Colours for classes that come without."""

import colorsys
from collections.abc import Sequence


def generate_palette(classes: Sequence[str]) -> list[list[int]]:
    """Make up one RGB colour a class; the same names give the same colours.

    Hues go round by the golden angle, so that neighbours differ and adding a
    class leaves the others as they are; ``'background'`` is black.

    Args:
        classes: The names.

    Returns:
        ``[r, g, b]`` in 0..255, one a class, all different up to 255 classes.
    """
    golden_ratio = 0.618034
    colors = []
    for i, name in enumerate(classes):
        rgb = colorsys.hsv_to_rgb(
            i * golden_ratio % 1, 0.9 - 0.3 * (i % 2), 1 - 0.15 * (i % 3)
        )
        black = name.lower() == 'background'
        colors.append([0 if black else round(255 * c) for c in rgb])
    return colors
