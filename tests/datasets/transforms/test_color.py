import numpy as np
import pytest
from mmseg.datasets.transforms import PhotoMetricDistortion as Reference

from upernet_ext.datasets.transforms import PhotoMetricDistortion

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (16, 17, 3), dtype=np.uint8)


def distort(transform, image, seed):
    np.random.seed(seed)
    return transform(dict(img=image.copy()))['img']


@pytest.mark.parametrize('seed', range(16))
def test_eight_bit_colour_is_mmsegs(seed):
    np.testing.assert_array_equal(
        distort(PhotoMetricDistortion(), IMAGE, seed),
        distort(Reference(), IMAGE, seed),
    )


@pytest.mark.parametrize('seed', range(16))
def test_floats_change_as_bytes_do_but_are_not_rounded(seed):
    expected = distort(PhotoMetricDistortion(), IMAGE, seed).astype(float)
    found = distort(PhotoMetricDistortion(), IMAGE.astype(np.float32), seed)
    assert found.dtype == np.float32
    # 8 bits round hue and saturation between the steps.
    assert np.abs(found - expected).mean() < 3


@pytest.mark.parametrize('channels', [1, 2, 5])
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_without_colour_brightness_and_contrast_remain(channels, dtype):
    image = np.full((4, 4, channels), 100, dtype)
    values = {
        float(distort(PhotoMetricDistortion(), image, seed).mean())
        for seed in range(20)
    }
    assert len(values) > 5
    assert all(0 <= value <= 255 for value in values)
