"""Resampling against splines and loops written out.

``tests/reference/compare_nnunet.py`` prints the same against nnU-Net.
"""

from itertools import product

import numpy as np
import pytest
from scipy import ndimage
from scipy.interpolate import CubicSpline

from upernet_ext.datasets.volumes.resampling import (
    coarse_axis,
    resample_image,
    resample_labels,
    resampled_shape,
)

ISOTROPIC = dict(spacing=(1, 1, 1), new_spacing=(1, 1, 1))


def spline_along(array: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Interpolate at pixel centres; the edge is repeated far outside."""
    margin = 20
    pad = [(0, 0)] * array.ndim
    pad[axis] = (margin, margin)
    padded = np.pad(array.astype(float), pad, mode='edge')
    old = array.shape[axis]
    centres = (np.arange(size) + 0.5) * old / size - 0.5
    spline = CubicSpline(np.arange(old + 2 * margin), padded, axis)
    return spline(centres + margin)


def linear_shares(mask: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Resample a mask voxel by voxel, linearly, clamped at the edge."""
    out = np.zeros(shape)
    for index in np.ndindex(*shape):
        ends = []
        for i, new, old in zip(index, shape, mask.shape, strict=True):
            x = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
            low = min(int(x), max(old - 2, 0))
            high = min(low + 1, old - 1)
            ends.append(((low, 1 - (x - low)), (high, x - low)))
        for corner in product(*ends):
            weight = np.prod([w for _, w in corner])
            out[index] += weight * mask[tuple(i for i, _ in corner)]
    return out


@pytest.mark.parametrize('shape', [(7, 9, 6), (12, 5, 11), (4, 14, 8)])
def test_images_are_splines_clipped_to_their_values(
    shape: tuple[int, ...],
) -> None:
    image = np.random.default_rng(0).normal(size=(2, 8, 9, 10))
    image = image.astype(np.float32)
    expected = image
    for axis, size in enumerate(shape, start=1):
        expected = spline_along(expected, size, axis)
    for c in range(2):
        expected[c] = expected[c].clip(image[c].min(), image[c].max())
    actual = resample_image(image, shape, **ISOTROPIC)
    assert actual.dtype == np.float32
    # The far ends of the splines differ: 0.27^20 of a value, and float32.
    np.testing.assert_allclose(actual, expected, atol=2e-6)


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_the_coarse_axis_takes_its_nearest_slice(axis: int) -> None:
    old, new = [9, 10, 8], [12, 7, 11]
    old[axis], new[axis] = 4, 9
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 5.0
    image = np.random.default_rng(0).normal(size=(1, *old))
    image = image.astype(np.float32)
    expected = image[0].astype(float)
    for other in {0, 1, 2} - {axis}:
        expected = spline_along(expected, new[other], other)
    slices = np.moveaxis(image[0], axis, 0)
    expected = np.stack(
        [
            part.clip(source.min(), source.max())
            for part, source in zip(
                np.moveaxis(expected, axis, 0), slices, strict=True
            )
        ]
    )
    # scikit-image's coordinates, as nnU-Net has them.
    where = (np.arange(9) + 0.5) * 4 / 9 - 0.5
    nearest = ndimage.map_coordinates(
        np.arange(4.0), where[None], order=0, mode='nearest'
    )
    expected = np.moveaxis(expected[nearest.astype(int)], 0, axis)
    actual = resample_image(image, new, spacing=spacing, new_spacing=(1, 1, 1))
    np.testing.assert_allclose(actual[0], expected, atol=2e-6)


@pytest.mark.parametrize('old', range(1, 12))
def test_nearest_slices_are_those_of_scipy(old: int) -> None:
    for new in range(1, 30):
        labels = np.arange(old)[:, None, None]
        where = (np.arange(new) + 0.5) * (old / new) - 0.5
        expected = ndimage.map_coordinates(
            np.arange(old, dtype=float), where[None], order=0, mode='nearest'
        )
        actual = resample_labels(
            labels, (new, 1, 1), spacing=(9, 1, 1), new_spacing=(1, 1, 1)
        )
        np.testing.assert_array_equal(actual[:, 0, 0], expected)


@pytest.mark.parametrize('shape', [(7, 9, 6), (3, 5, 9)])
def test_labels_are_the_largest_share(shape: tuple[int, ...]) -> None:
    # 255 is ignored: a label like the others.
    labels = np.random.default_rng(0).choice([0, 1, 2, 255], (5, 6, 4))
    labels = labels.astype(np.uint8)
    values = np.unique(labels)
    shares = np.stack([linear_shares(labels == v, shape) for v in values])
    actual = resample_labels(labels, shape, **ISOTROPIC)
    assert actual.dtype == np.uint8
    best = np.sort(shares, axis=0)
    clear = best[-1] - best[-2] > 1e-9
    assert 0.5 < clear.mean() <= 1
    expected = values[shares.argmax(axis=0)]
    np.testing.assert_array_equal(actual[clear], expected[clear])
    # nnU-Net: the label with at least half, of two the higher one.
    half = np.zeros(shape, np.uint8)
    for value, share in zip(values, shares, strict=True):
        half[share >= 0.5] = value
    has_half = best[-1] >= 0.5
    assert has_half.mean() > 0.2
    np.testing.assert_array_equal(actual[has_half], half[has_half])


def test_of_two_equal_shares_the_higher_label_wins() -> None:
    labels = np.array([[[1, 0]], [[1, 2]]], np.uint8).repeat(2, axis=1)
    actual = resample_labels(labels, (1, 2, 1), **ISOTROPIC)
    # Shares: 0 and 2 a quarter each, 1 a half.
    assert actual.tolist() == [[[1], [1]]]
    labels = np.array([[[0, 3]]], np.uint8)
    actual = resample_labels(labels, (1, 1, 1), **ISOTROPIC)
    assert actual.tolist() == [[[3]]]


def test_a_grid_that_fits_is_left_alone() -> None:
    image = np.random.default_rng(0).normal(size=(1, 4, 5, 6))
    image = image.astype(np.float32)
    assert resample_image(image, (4, 5, 6), **ISOTROPIC) is image
    labels = np.zeros((4, 5, 6), np.uint8)
    assert resample_labels(labels, (4, 5, 6), **ISOTROPIC) is labels


@pytest.mark.parametrize(
    ('spacing', 'new_spacing', 'axis'),
    [
        ((1, 1, 1), (1, 1, 1), None),
        ((3, 1, 1), (1, 1, 1), None),
        ((3.1, 1, 1), (1, 1, 1), 0),
        ((1, 1, 1), (1, 5, 1), 1),
        ((1, 1, 5), (5, 1, 1), 2),
        # Two coarse axes are no slices.
        ((0.24, 1.25, 1.25), (1, 1, 1), None),
        ((0.24, 1.25, 1.25), (5, 1, 1), None),
    ],
)
def test_the_coarse_axis(
    spacing: tuple, new_spacing: tuple, axis: int | None
) -> None:
    assert coarse_axis(spacing, new_spacing) == axis


def test_the_new_shape_rounds_to_even_and_is_never_empty() -> None:
    # Python's round, as in nnU-Net: 2.5 -> 2, 3.5 -> 4.
    assert resampled_shape((5, 7, 1), (1, 1, 1), (2, 2, 9)) == (2, 4, 1)
