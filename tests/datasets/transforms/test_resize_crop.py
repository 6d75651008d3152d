import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mmcv.transforms import Compose, RandomResize
from mmcv.transforms.utils import cache_random_params
from mmengine.registry import DefaultScope
from mmseg.datasets.transforms import RandomCrop

from upernet_ext.datasets.transforms import RandomResizeCrop


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def sample(size, channels, dtype, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (*size, channels)).astype(dtype)
    labels = rng.choice(np.uint8([0, 1, 149, 255]), (size[0], size[1]))
    return dict(
        img=image,
        gt_seg_map=labels,
        other=labels[::-1].copy(),
        seg_fields=['gt_seg_map', 'other'],
    )


def run(transform, results, seed):
    np.random.seed(seed)
    return dict(transform(results), next_draw=np.random.random_sample())


sizes = st.tuples(*[st.integers(1, 40)] * 2) | st.tuples(
    *[st.integers(60, 200)] * 2
)
scales = st.fixed_dictionaries(
    dict(
        scale=sizes,
        ratio_range=st.sampled_from([(0.5, 2.0), (1.0, 1.0), (0.99, 1.01)]),
        keep_ratio=st.booleans(),
    )
) | st.fixed_dictionaries(dict(scale=st.lists(sizes, min_size=2, max_size=2)))


@settings(max_examples=400, deadline=None)
@given(
    size=sizes,
    channels=st.integers(1, 6),
    dtype=st.sampled_from([np.uint8, np.uint8, np.uint8, np.float32]),
    resize=scales,
    crop_size=sizes,
    ratio=st.sampled_from([0.3, 0.75, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_it_is_mmcvs_resize_and_mmsegs_crop(
    size, channels, dtype, resize, crop_size, ratio, seed
):
    plain = Compose([RandomResize(**resize), RandomCrop(crop_size, ratio)])
    ours = RandomResizeCrop(crop_size=crop_size, cat_max_ratio=ratio, **resize)
    try:
        expected = run(plain, sample(size, channels, dtype, seed), seed)
    except cv2.error:
        # Less than half a pixel is left of one side.
        assume(False)
    found = run(ours, sample(size, channels, dtype, seed), seed)
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, strict=True)


@pytest.mark.parametrize('factor', [0.5, 1.0, 67 / 66, 2.0, 4.0])
@pytest.mark.parametrize('channels', [1, 3])
def test_special_factors(factor, channels):
    size = (64, 66)
    scale = dict(
        scale=(round(66 * factor), round(64 * factor)), ratio_range=(1.0, 1.0)
    )
    plain = Compose([RandomResize(**scale), RandomCrop((9, 8))])
    ours = RandomResizeCrop(crop_size=(9, 8), **scale)
    for seed in range(20):
        found, expected = (
            run(transform, sample(size, channels, np.uint8, 0), seed)['img']
            for transform in (ours, plain)
        )
        np.testing.assert_array_equal(found, expected, strict=True)


def test_an_image_without_labels_is_resized_and_cropped():
    image = sample((30, 20), 3, np.uint8, 0)['img']
    scale = dict(scale=(60, 40), ratio_range=(0.5, 2.0), keep_ratio=True)
    found, expected = (
        run(transform, dict(img=image), 4)['img']
        for transform in (
            RandomResizeCrop(crop_size=8, **scale),
            Compose([RandomResize(**scale), RandomCrop(8)]),
        )
    )
    np.testing.assert_array_equal(found, expected)


def test_wrappers_can_repeat_scale_and_window():
    transform = RandomResizeCrop(
        (60, 40), (8, 9), ratio_range=(0.5, 2.0), cat_max_ratio=0.75
    )

    def images(seeds):
        return [
            run(transform, sample((30, 20), 3, np.uint8, 0), seed)['img']
            for seed in seeds
        ]

    with cache_random_params([transform]):
        first, second, third = images(range(3))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)
    assert (images([1])[0] != first).any()
