"""Normalisation, by nnU-Net's definitions written out."""

import numpy as np
import pytest

from upernet_ext.datasets.volumes.normalization import (
    SCHEMES,
    normalize,
    scheme_of,
)

IMAGE = np.random.default_rng(0).normal(60, 25, (4, 5, 6)).astype(np.float32)
IMAGE[0] = 0
MASK = IMAGE != 0
STATISTICS = dict(mean=55, std=20, percentile_00_5=20, percentile_99_5=90)
INSIDE = IMAGE[MASK].astype(float)


@pytest.mark.parametrize(
    ('scheme', 'mask', 'expected'),
    [
        ('zscore', None, (IMAGE - IMAGE.mean()) / IMAGE.std()),
        (
            'zscore',
            MASK,
            np.where(MASK, (IMAGE - INSIDE.mean()) / INSIDE.std(), IMAGE),
        ),
        ('ct', None, (IMAGE.clip(20, 90) - 55) / 20),
        ('ct', MASK, (IMAGE.clip(20, 90) - 55) / 20),
        (
            'rescale_to_0_1',
            None,
            (IMAGE - IMAGE.min()) / (IMAGE.max() - IMAGE.min()),
        ),
        ('rgb_to_0_1', None, IMAGE.clip(0, 255) / 255),
        ('nonorm', None, IMAGE),
    ],
)
def test_schemes(
    scheme: str, mask: np.ndarray | None, expected: np.ndarray
) -> None:
    image = IMAGE.clip(0, 255) if scheme == 'rgb_to_0_1' else IMAGE
    before = image.copy()
    actual = normalize(image, scheme, statistics=STATISTICS, mask=mask)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(image, before)


def test_a_constant_image_is_zero() -> None:
    image = np.full((2, 2, 2), 7, np.float32)
    assert not normalize(image, 'zscore').any()
    assert not normalize(image, 'rescale_to_0_1').any()


def test_other_names_than_schemes_are_z_scored() -> None:
    names = ['CT', 'ct', 'noNorm', 'T1', 'rescale_0_1', 'rescale_to_0_1']
    schemes = ['ct', 'ct', 'nonorm', 'zscore', *['rescale_to_0_1'] * 2]
    assert [scheme_of(name) for name in names] == schemes
    assert set(schemes) < set(SCHEMES)


@pytest.mark.parametrize(
    ('scheme', 'image', 'message'),
    [
        ('rgb_to_0_1', IMAGE - 300, 'values in 0..255'),
        ('rgb_to_0_1', IMAGE + 300, 'values in 0..255'),
        ('z-score', IMAGE, "'z-score' is none of"),
    ],
)
def test_wrong_values(scheme: str, image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        normalize(image, scheme)
