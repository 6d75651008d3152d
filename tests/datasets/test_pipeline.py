import pytest
from mmcv.transforms import Compose

from upernet_ext.datasets.pipeline import DataError, run_pipeline


def add_one(sample):
    return {**sample, 'n': sample['n'] + 1}


def divide(sample):
    return {**sample, 'n': sample['n'] / 0}


def test_transforms_run_in_order():
    pipeline = Compose([add_one, lambda s: {**s, 'n': s['n'] * 5}])
    assert run_pipeline(pipeline, dict(img_path='a', n=1))['n'] == 10


def test_none_ends_the_pipeline():
    pipeline = Compose([lambda _: None, divide])
    assert run_pipeline(pipeline, dict(img_path='a', n=1)) is None


def test_an_error_names_image_transform_and_cause():
    with pytest.raises(
        DataError, match=r'x/a\.png: .* failed: ZeroDivisionError: div'
    ) as caught:
        run_pipeline(Compose([divide]), dict(img_path='x/a.png', n=1))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
