"""To another spacing, by the rules of nnU-Net.

Facts: nnunetv2/preprocessing/resampling/default_resampling.py and
``resize_segmentation`` of batchgenerators, both of which stand on
scikit-image's ``resize``, that is ``scipy.ndimage.zoom`` on pixel centres
with the edge repeated, clipped to the values of the input.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

# The ratio of spacings from which an axis is resampled on its own.
ANISOTROPY = 3


def resampled_shape(
    shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
) -> tuple[int, ...]:
    """Return the number of voxels that fill the same space."""
    return tuple(
        max(round(old / new * size), 1)
        for size, old, new in zip(shape, spacing, new_spacing, strict=True)
    )


def coarse_axis(
    spacing: Sequence[float], new_spacing: Sequence[float]
) -> int | None:
    """Return the axis that is to be resampled on its own, if there is one.

    It is the coarsest of the old spacing, else of the new one, if it is more
    than three times coarser than the finest and no other is as coarse.
    """
    for sizes in (spacing, new_spacing):
        if max(sizes) / min(sizes) > ANISOTROPY:
            only = list(sizes).count(max(sizes)) == 1
            return list(sizes).index(max(sizes)) if only else None
    return None


def resample_image(
    image: np.ndarray,
    shape: Sequence[int],
    *,
    spacing: Sequence[float],
    new_spacing: Sequence[float],
) -> np.ndarray:
    """Resample with cubic splines, the coarse axis with its nearest slice.

    Args:
        image: ``(C, z, y, x)``.
        shape: The new ``(z, y, x)``.
        spacing: Of the image, mm.
        new_spacing: To be, mm; with ``spacing`` it decides whether an axis
            is coarse.

    Returns:
        ``float32`` ``(C, *shape)``.
    """
    if image.shape[1:] == tuple(shape):
        return image.astype(np.float32, copy=False)
    axis = coarse_axis(spacing, new_spacing)
    resampled = np.empty((len(image), *shape), np.float32)
    for channel, out in zip(image, resampled, strict=True):
        _resize(channel, out, axis, _zoom_image)
    return resampled


def resample_labels(
    labels: np.ndarray,
    shape: Sequence[int],
    *,
    spacing: Sequence[float],
    new_spacing: Sequence[float],
) -> np.ndarray:
    """Resample labels: the largest of their linearly resampled masks.

    The coarse axis takes its nearest slice. Of two equal labels the higher
    wins. nnU-Net takes a label that has at least half, and otherwise, where
    three labels meet, the background.

    Args:
        labels: ``(z, y, x)``, integers.
        shape: The new one.
        spacing: Of the labels, mm.
        new_spacing: To be, mm.

    Returns:
        ``shape``, of the same type.
    """
    if labels.shape == tuple(shape):
        return labels
    out = np.empty(shape, labels.dtype)
    _resize(labels, out, coarse_axis(spacing, new_spacing), _zoom_labels)
    return out


def _resize(
    array: np.ndarray, out: np.ndarray, axis: int | None, zoom: callable
) -> None:
    """Fill ``out``, as a whole or slice by slice along ``axis``."""
    if axis is None:
        out[:] = zoom(array, out.shape)
        return
    array, out = np.moveaxis(array, axis, 0), np.moveaxis(out, axis, 0)
    centres = (np.arange(len(out)) + 0.5) * (len(array) / len(out))
    nearest = np.minimum(centres.astype(int), len(array) - 1)
    for i in np.unique(nearest):
        out[nearest == i] = zoom(array[i], out.shape[1:])


def _zoom(array: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    factors = [new / old for new, old in zip(shape, array.shape, strict=True)]
    return ndimage.zoom(
        array, factors, np.float64, order, mode='nearest', grid_mode=True
    )


def _zoom_image(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    resized = _zoom(image.astype(np.float64), shape, 3)
    return np.clip(resized, image.min(), image.max(), out=resized)


def _zoom_labels(labels: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    values = np.unique(labels)
    out = np.full(shape, values[0], labels.dtype)
    if len(values) == 1:
        return out
    best = _zoom((labels == values[0]).astype(np.float64), shape, 1)
    for value in values[1:]:
        share = _zoom((labels == value).astype(np.float64), shape, 1)
        wins = share >= best
        out[wins] = value
        np.maximum(share, best, out=best)
    return out
