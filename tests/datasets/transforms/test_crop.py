import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mmcv.transforms import BaseTransform
from mmcv.transforms.utils import cache_random_params
from mmseg.datasets.transforms import RandomCrop as Reference

from upernet_ext.datasets.transforms import RandomCrop
from upernet_ext.datasets.transforms.labels import count_values


def crop(transform: BaseTransform, labels: np.ndarray, seed: int) -> dict:
    image = np.arange(labels.size, dtype=np.int32).reshape(labels.shape)
    np.random.seed(seed)
    results = transform(
        dict(img=image, gt_seg_map=labels, seg_fields=['gt_seg_map'])
    )
    # The next draw tells how many there were.
    return dict(results, next_draw=np.random.random_sample())


def labels_of(values: list[int], dtype: type) -> st.SearchStrategy:
    return hnp.arrays(
        dtype,
        st.tuples(st.integers(1, 14), st.integers(1, 14)),
        elements=st.sampled_from(values),
    )


@settings(max_examples=150, deadline=None)
@given(
    labels=labels_of([0, 1, 7, 254, 255], np.uint8)
    | labels_of([0, 1, 255, 300], np.uint16),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    ratio=st.sampled_from([0.3, 0.5, 0.75, 0.99, 1.0]),
    ignored=st.sampled_from([255, 7, 0, -1, 300]),
    seed=st.integers(0, 9),
)
def test_windows_and_draws_are_mmsegs(labels, size, ratio, ignored, seed):
    found, expected = (
        crop(kind(size, ratio, ignored), labels, seed)
        for kind in (RandomCrop, Reference)
    )
    assert found.keys() == expected.keys()
    for key in ('img', 'gt_seg_map', 'img_shape', 'next_draw'):
        np.testing.assert_array_equal(found[key], expected[key])


def test_half_of_one_class_is_too_much_at_half():
    labels = np.uint8([[0, 0, 0, 1, 1, 1], [255] * 6])
    draws = [crop(RandomCrop((2, 2), 0.5), labels, s) for s in range(20)]
    # No window of two columns has less than half of its larger class.
    expected = [crop(Reference((2, 2), 0.5), labels, s) for s in range(20)]
    assert [d['next_draw'] for d in draws] == [
        d['next_draw'] for d in expected
    ]
    mixed = [crop(RandomCrop((2, 2), 0.51), labels, s) for s in range(20)]
    assert sum(len(np.unique(d['gt_seg_map'])) == 3 for d in mixed) > 15


def test_an_image_without_labels_is_cropped():
    image = np.arange(30).reshape(5, 6)
    for kind in (RandomCrop, Reference):
        np.random.seed(3)
        found = kind((2, 3))(dict(img=image))['img']
        np.testing.assert_array_equal(found, image[2:4, 0:3])


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
@pytest.mark.parametrize('kind', [RandomCrop, Reference])
def test_wrappers_can_repeat_the_window(kind, dtype):
    labels = np.random.default_rng(0).integers(0, 9, (40, 40), dtype)
    transform = kind((4, 4), 0.75)
    with cache_random_params([transform]):
        windows = [crop(transform, labels, seed)['img'] for seed in range(3)]
    assert (windows[0] == windows[1]).all()
    assert (windows[0] == windows[2]).all()
    assert (crop(transform, labels, 1)['img'] != windows[0]).any()


@given(labels=hnp.arrays(np.uint8, st.tuples(*[st.integers(1, 9)] * 2)))
def test_every_value_is_counted(labels):
    expected = np.bincount(labels.ravel(), minlength=256)
    for view in (labels, labels.T, labels[::-1]):
        np.testing.assert_array_equal(count_values(view), expected)


@pytest.mark.parametrize('extra', [0, 1])
def test_counts_stay_whole_where_float32_cannot_tell(extra):
    labels = np.zeros((2**12, 2**12 + extra), np.uint8)
    labels[-1, -1] = 3
    counts = count_values(labels)
    assert counts.dtype == np.int64
    assert counts[3] == 1
    assert counts[0] == labels.size - 1
