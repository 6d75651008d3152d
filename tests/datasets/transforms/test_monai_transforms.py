import functools
import sys

import numpy as np
import pytest
import torch
from mmcv.transforms import TRANSFORMS, Compose
from mmengine.dataset import worker_init_fn
from mmengine.registry import DefaultScope
from monai import transforms as monai
from torch.utils.data import DataLoader, Dataset

from upernet_ext.datasets.transforms import MonaiTransform, PackInputs

SHAPE = (10, 12, 14)
# Spatial transforms that change every sample, with either mode.
MODED = {
    'RandAffined': dict(
        prob=1, rotate_range=1.0, scale_range=0.3, padding_mode='border'
    ),
    'RandRotated': dict(prob=1, range_x=1.0, keep_size=True),
    'RandZoomd': dict(prob=1, min_zoom=1.2, max_zoom=1.5),
    'RandGridDistortiond': dict(prob=1),
    'Rand3DElasticd': dict(prob=1, sigma_range=(1, 2), magnitude_range=(5, 9)),
    'Resized': dict(spatial_size=(7, 8, 9)),
    'Zoomd': dict(zoom=1.3),
}
UNMODED = {
    'RandSmoothDeformd': dict(
        prob=1, spatial_size=SHAPE, rand_size=(4, 4, 4), def_range=0.5
    ),
    'RandFlipd': dict(prob=1, spatial_axis=1),
    'RandAxisFlipd': dict(prob=1),
    'RandRotate90d': dict(prob=1, spatial_axes=(1, 2)),
    'RandSpatialCropd': dict(roi_size=(4, 5, 6)),
    'CenterSpatialCropd': dict(roi_size=(4, 5, 6)),
    'RandCropByPosNegLabeld': dict(spatial_size=(4, 5, 6)),
    'SpatialPadd': dict(spatial_size=(16, 16, 16)),
    'CropForegroundd': dict(source_key='label'),
}


def sample():
    labels = np.random.default_rng(0).integers(0, 4, SHAPE).astype(np.uint8)
    labels[labels == 3] = 255
    image = labels[None].astype(np.float32)
    # As what is mapped from a file.
    image.flags.writeable = labels.flags.writeable = False
    return dict(
        img=image,
        gt_seg_map=labels,
        foreground={1: np.argwhere(labels == 1)},
        channels_first=True,
        img_path='case_1',
    )


def run(kind, seed=0, **arguments):
    np.random.seed(seed)
    results = TRANSFORMS.build(dict(type=f'monai.{kind}', **arguments))(
        sample()
    )
    for key in ('img', 'gt_seg_map'):
        assert type(results[key]) is np.ndarray
        assert results[key].flags.c_contiguous
    assert results['img'].dtype == np.float32
    assert results['gt_seg_map'].dtype == np.uint8
    assert results['img_shape'] == results['img'].shape[1:]
    return results


@pytest.mark.parametrize('kind', [*MODED, *UNMODED])
def test_labels_move_with_the_image(kind):
    arguments = {**MODED, **UNMODED}[kind]
    if kind in MODED:
        arguments = dict(arguments, mode=['nearest', 'nearest'])
    results = run(kind, **arguments)
    np.testing.assert_array_equal(results['img'][0], results['gt_seg_map'])
    assert results['gt_seg_map'].shape == results['img_shape']
    same = (
        results['gt_seg_map'].shape == SHAPE
        and (results['gt_seg_map'] == sample()['gt_seg_map']).all()
    )
    assert same == (kind == 'CropForegroundd')
    assert 'foreground' not in results


@pytest.mark.parametrize('kind', ['RandAffined', 'RandFlipd'])
def test_without_luck_nothing_happens(kind):
    results, before = run(kind, prob=0), sample()
    np.testing.assert_array_equal(results['img'], before['img'])
    np.testing.assert_array_equal(results['gt_seg_map'], before['gt_seg_map'])


@pytest.mark.parametrize('kind', MODED)
def test_labels_are_not_interpolated(kind):
    results = run(kind, **MODED[kind])
    assert set(np.unique(results['gt_seg_map'])) <= {0, 1, 2, 255}
    assert 255 in results['gt_seg_map']
    assert len(np.unique(results['img'])) > 10
    if kind == 'RandAffined':
        one = run(kind, **MODED[kind], mode='bilinear')
        np.testing.assert_array_equal(one['gt_seg_map'], results['gt_seg_map'])


@pytest.mark.parametrize(
    'arguments',
    [
        dict(kind='RandGaussianNoised', prob=1),
        dict(kind='RandSimulateLowResolutiond', prob=1),
        dict(kind='ScaleIntensityd'),
        dict(kind='RandAffined', prob=1, rotate_range=1.0, keys='image'),
        dict(kind='Lambdad', func=lambda x: x + 1, keys='image'),
    ],
)
def test_intensities_leave_the_labels(arguments):
    results, before = run(**arguments), sample()
    np.testing.assert_array_equal(results['gt_seg_map'], before['gt_seg_map'])
    assert (results['img'] != before['img']).any()
    assert 'foreground' in results


def test_values_are_monais():
    np.random.seed(0)
    seed = int(np.random.randint(2**32, dtype=np.uint32))
    theirs = monai.RandAffined(
        ['image', 'label'],
        prob=1,
        rotate_range=1.0,
        mode=('bilinear', 'nearest'),
    ).set_random_state(seed=seed)
    before = sample()
    expected = theirs(
        dict(
            image=before['img'].copy(), label=before['gt_seg_map'][None].copy()
        )
    )
    found = run('RandAffined', prob=1, rotate_range=1.0)
    np.testing.assert_array_equal(found['img'], expected['image'].numpy())
    np.testing.assert_array_equal(
        found['gt_seg_map'][None], expected['label'].numpy()
    )


@pytest.mark.parametrize('scope', [None, 'mmseg', 'mmengine', 'upernet_ext'])
def test_found_from_any_scope(scope):
    pipeline = [
        dict(type='monai.RandFlipd', prob=1),
        dict(
            type='mmcv.RandomApply',
            transforms=[dict(type='monai.RandGaussianNoised', prob=1)],
            prob=1,
        ),
        dict(type='upernet_ext.PackInputs'),
    ]
    with DefaultScope.overwrite_default_scope(scope):
        packed = Compose(pipeline)(sample())
    expected = sample()['gt_seg_map'][::-1, ::-1, ::-1]
    np.testing.assert_array_equal(
        packed['data_samples'].gt_sem_seg.data[0], expected
    )
    assert type(packed['inputs']) is torch.Tensor
    assert type(packed['data_samples'].gt_sem_seg.data) is torch.Tensor


def test_2d_slices():
    image = np.arange(30, dtype=np.float32).reshape(1, 5, 6)
    results = MonaiTransform('RandFlipd', prob=1, spatial_axis=0)(
        dict(img=image, gt_seg_map=image[0], channels_first=True)
    )
    np.testing.assert_array_equal(results['img'], image[:, ::-1])
    np.testing.assert_array_equal(results['gt_seg_map'], image[0, ::-1])


def test_numpys_seed_repeats_and_calls_differ():
    transform = MonaiTransform('RandAffined', prob=1, rotate_range=1.0)

    def draw():
        return transform(sample())['img']

    np.random.seed(1)
    first, second = draw(), draw()
    np.random.seed(1)
    np.testing.assert_array_equal(draw(), first)
    assert (first != second).any()


class _Noise(Dataset):
    def __init__(self):
        self.pipeline = Compose(
            [
                MonaiTransform('RandGaussianNoised', prob=1),
                dict(type='upernet_ext.RandomGaussianNoise', prob=1),
                PackInputs(),
            ]
        )

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.pipeline(sample())['inputs'].sum().item()


@pytest.mark.slow
def test_workers_differ_and_repeat():
    def epoch(seed):
        init = functools.partial(
            worker_init_fn, num_workers=2, rank=0, seed=seed
        )
        loader = DataLoader(
            _Noise(), num_workers=2, worker_init_fn=init, batch_size=1
        )
        return [float(value) for value in loader]

    assert len(set(epoch(1))) == 4
    assert epoch(1) == epoch(1)
    assert not set(epoch(1)) & set(epoch(8))


@pytest.mark.parametrize(
    ('kind', 'arguments', 'message'),
    [
        ('RandAffine', {}, 'did you mean .*RandAffined'),
        ('RandFlpd', {}, 'did you mean .*RandFlipd'),
        ('Qwxyz', {}, 'no dictionary transform of that name$'),
        ('Compose', {}, 'no dictionary transform'),
        ('Spacingd', dict(pixdim=1), 'LoadCase'),
        ('Lambdad', dict(func=abs), "say what it changes: keys='image'"),
        ('RandFlipd', dict(keys=['img']), r"'image' and 'label', got \('img"),
    ],
)
def test_refuses_to_be_built(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        TRANSFORMS.build(dict(type=f'monai.{kind}', **arguments))


def test_refuses_a_sample():
    results = sample()
    several = MonaiTransform(
        'RandSpatialCropSamplesd', roi_size=(2, 2, 2), num_samples=3
    )
    with pytest.raises(ValueError, match=r'case_1: .* 3 samples of one'):
        several(dict(results))
    del results['gt_seg_map']
    with pytest.raises(ValueError, match=r"case_1: .* keys='image'"):
        MonaiTransform('RandFlipd')(dict(results))
    image = dict(img=np.zeros((4, 4, 3)), img_path='a.png')
    with pytest.raises(ValueError, match=r'a\.png: monai\.RandFlipd takes'):
        MonaiTransform('RandFlipd')(image)


def test_without_monai_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'monai', None)
    with pytest.raises(ImportError, match=r"pip install 'upernet_ext\[vol"):
        TRANSFORMS.build(dict(type='monai.RandFlipd'))
