import numpy as np
import pytest
from mmcv.transforms import TRANSFORMS, Compose
from mmengine.registry import DefaultScope

from upernet_ext.datasets import MNI152Dataset
from upernet_ext.datasets.layout import (
    contiguous,
    is_channels_first,
    refuse_2d_transform,
)
from upernet_ext.datasets.pipeline import DataError, run_pipeline

VOLUME = dict(img=np.zeros((1, 4, 5, 6), np.float32), img_path='case_1')
SLICE = dict(
    img=np.zeros((1, 5, 6), np.float32), img_path='case_1', channels_first=True
)
IMAGE = dict(img=np.zeros((5, 6, 3), np.uint8), img_path='a.png')
REFUSED = {
    'RandomFlip': (dict(prob=1.0), 'upernet_ext.RandomMirror'),
    'RandomCrop': (dict(crop_size=(2, 2)), 'upernet_ext.CropPatch'),
    'upernet_ext.RandomCrop': (
        dict(crop_size=(2, 2)),
        'upernet_ext.CropPatch',
    ),
    'Pad': (dict(size=(8, 8)), 'upernet_ext.CropPatch'),
    'Resize': (dict(scale=(8, 8)), 'LoadCase'),
    'RandomResize': (dict(scale=(8, 8)), 'scaling_prob'),
    'RandomRotate': (dict(prob=1.0, degree=9), 'rotation_prob'),
    'Normalize': (dict(mean=[0], std=[1]), 'LoadCase'),
    'PhotoMetricDistortion': ({}, 'RandomGamma'),
    'upernet_ext.PhotoMetricDistortion': ({}, 'RandomGamma'),
    'PackSegInputs': ({}, 'upernet_ext.PackInputs'),
    'BioMedical3DRandomFlip': (dict(prob=1.0, axes=(0, 1, 2)), 'CropPatch'),
}
WRAPPERS = {
    'RandomApply': lambda inner: dict(transforms=[inner], prob=1.0),
    'RandomChoice': lambda inner: dict(transforms=[[inner], [inner]]),
    'Compose': lambda inner: dict(transforms=[inner]),
}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.mark.parametrize('kind', REFUSED)
@pytest.mark.parametrize('sample', [VOLUME, SLICE], ids=['volume', 'slice'])
def test_a_2d_transform_is_refused_and_another_named(kind, sample):
    arguments, instead = REFUSED[kind]
    pipeline = Compose([dict(type=kind, **arguments)])
    name = kind.removeprefix('upernet_ext.')
    with pytest.raises(DataError, match=f'^case_1: .*{name} is .*{instead}'):
        run_pipeline(pipeline, dict(sample))


@pytest.mark.parametrize('wrapper', WRAPPERS)
def test_wrappers_hide_nothing(wrapper):
    for kind in ('RandomFlip', 'upernet_ext.RandomMirror'):
        arguments = WRAPPERS[wrapper](dict(type=kind, prob=1.0))
        transform = TRANSFORMS.build(dict(type=wrapper, **arguments))
        if kind == 'RandomFlip':
            with pytest.raises(ValueError, match='RandomFlip is for images'):
                refuse_2d_transform(transform, dict(VOLUME))
        else:
            run_pipeline(Compose([transform]), dict(VOLUME))


def test_images_are_let_through():
    results = run_pipeline(
        Compose([dict(type='RandomFlip', prob=1.0)]), dict(IMAGE)
    )
    assert results['flip']


def test_what_is_not_loaded_yet_is_let_through():
    def load(sample):
        return {**sample, **VOLUME}

    results = dict(img_path='case_1')
    assert not is_channels_first(results)
    assert run_pipeline(Compose([load]), results)['img'].ndim == 4


def test_a_datasets_volume_is_refused_its_slice_is_not():
    pipeline = [dict(type='RandomFlip', prob=1.0)]
    assert MNI152Dataset('val', pipeline=pipeline)[0]['flip']
    with pytest.raises(DataError, match=r'mni152_t1_volume: .*RandomMirror'):
        MNI152Dataset(volume=True, pipeline=pipeline)[0]


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'float32', 'int64'])
@pytest.mark.parametrize('shape', [(3, 4), (3, 4, 1), (3, 4, 3), (3, 4, 7)])
@pytest.mark.parametrize('steps', [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_a_mirrored_view_becomes_contiguous(dtype, shape, steps):
    image = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    view = image[:: steps[0], :: steps[1]]
    found = contiguous(view)
    assert (found is view) == (steps == (1, 1))
    assert found.flags.c_contiguous
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, view, strict=True)
