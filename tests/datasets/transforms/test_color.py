import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mmseg.datasets.transforms import PhotoMetricDistortion as Reference

from upernet_ext.datasets.transforms import PhotoMetricDistortion

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (16, 17, 3), dtype=np.uint8)


def distort(transform, image, seed):
    np.random.seed(seed)
    return transform(dict(img=image.copy()))['img']


@settings(max_examples=200, deadline=None)
@given(
    image=hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))
    ),
    mirrored=st.sampled_from([(1, 1), (1, -1), (-1, 1), (-1, -1)]),
    options=st.sampled_from(
        [
            {},
            dict(brightness_delta=200, contrast_range=(0.0, 5.0)),
            dict(saturation_range=(0.0, 9.0), hue_delta=179),
        ]
    ),
    seed=st.integers(0, 2**32 - 1),
)
def test_eight_bit_colour_is_mmsegs(image, mirrored, options, seed):
    original = image.copy()
    rows, columns = (slice(None, None, step) for step in mirrored)
    found, expected = [], []
    for kind, values in (
        (PhotoMetricDistortion, found),
        (Reference, expected),
    ):
        np.random.seed(seed)
        out = kind(**options)(dict(img=image[rows, columns]))['img']
        values += [out, np.random.random_sample()]
    assert found[0].dtype == np.uint8
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == expected[1]
    np.testing.assert_array_equal(image, original)


@pytest.mark.parametrize('seed', range(32))
def test_every_order_of_the_steps_is_mmsegs(seed):
    colors = RNG.integers(0, 256, (64, 65, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        distort(PhotoMetricDistortion(), colors, seed),
        distort(Reference(), colors, seed),
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
    found = distort(PhotoMetricDistortion(), image, 1)
    assert (found.shape, found.dtype) == (image.shape, dtype)
    values = {
        float(distort(PhotoMetricDistortion(), image, seed).mean())
        for seed in range(20)
    }
    assert len(values) > 5
    assert all(0 <= value <= 255 for value in values)
