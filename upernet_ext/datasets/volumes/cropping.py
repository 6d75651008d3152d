"""Crop to what is not zero."""

import numpy as np

Box = tuple[tuple[int, int], ...]


def nonzero_box(image: np.ndarray) -> Box:
    """Return where an image ``(C, *S)`` is not zero, or all of it.

    Returns:
        ``(start, stop)`` an axis of ``S``.
    """
    mask = (image != 0).any(axis=0)
    if not mask.any():
        return tuple((0, size) for size in mask.shape)
    box = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        there = np.flatnonzero(mask.any(axis=others))
        box.append((int(there[0]), int(there[-1]) + 1))
    return tuple(box)
