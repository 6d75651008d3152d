import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmengine.registry import DefaultScope

from upernet_ext.datasets.transforms import LoadImage, PackInputs
from upernet_ext.structures import GridData

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ('shape', 'packed'),
    [
        ((6, 5), (1, 6, 5)),
        ((6, 5, 1), (1, 6, 5)),
        ((6, 5, 7), (7, 6, 5)),
        ((2, 4, 6, 5), (2, 4, 6, 5)),
    ],
)
def test_any_rank(shape, packed):
    image = RNG.integers(0, 256, shape, dtype=np.uint8)
    mask = RNG.integers(0, 9, packed[1:], dtype=np.uint8)
    results = dict(img=image, gt_seg_map=mask, img_path='a', spacing=(2.0,))
    sample = PackInputs()(results)
    moved = image if len(shape) != 3 else np.moveaxis(image, -1, 0)
    np.testing.assert_array_equal(sample['inputs'], moved.reshape(packed))
    assert sample['inputs'].dtype == torch.uint8
    labels = sample['data_samples'].gt_sem_seg
    assert isinstance(labels, GridData)
    assert labels.data.dtype == torch.int64
    np.testing.assert_array_equal(labels.data, mask[None])
    assert labels.spacing == (2.0,)
    assert sample['data_samples'].img_shape == packed[1:]
    assert sample['data_samples'].pad_shape == packed[1:]


def test_doubles_become_floats():
    sample = PackInputs()(dict(img=np.full((4, 4), 0.5)))
    assert sample['inputs'].dtype == torch.float32
    assert 'gt_sem_seg' not in sample['data_samples']


def test_a_mask_off_the_grid_names_the_image():
    results = dict(
        img=np.zeros((4, 4, 3)), gt_seg_map=np.zeros((4, 5)), img_path='x.png'
    )
    with pytest.raises(ValueError, match=r'x\.png.*\(4, 4\).*\(4, 5\)'):
        PackInputs()(results)


def test_truth_stays_at_the_size_of_the_file_in_a_test_pipeline():
    mask = RNG.integers(0, 3, (4, 5))
    results = dict(img=np.zeros((8, 10, 3)), gt_seg_map=mask, ori_shape=(4, 5))
    sample = PackInputs()(results)['data_samples']
    assert sample.img_shape == (8, 10)
    np.testing.assert_array_equal(sample.gt_sem_seg.data[0], mask)


def test_an_image_without_a_grid_is_refused():
    with pytest.raises(ValueError, match=r'\(4,\)'):
        PackInputs()(dict(img=np.zeros(4)))


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.mark.parametrize('channels', [1, 2, 3, 4, 6, 13])
@pytest.mark.parametrize('dtype', [np.uint8, np.uint16])
def test_any_channels_pass_mmsegs_transforms(channels, dtype):
    """Each channel comes out as it would alone, on its axis."""
    image = RNG.integers(0, 255, (30, 40, channels)).astype(dtype)
    mask = RNG.integers(0, 3, (30, 40), dtype=np.uint8)
    pipeline = Compose(
        [
            LoadImage('unchanged'),
            dict(
                type='RandomResize',
                scale=(60, 45),
                ratio_range=(0.5, 2.0),
                keep_ratio=True,
            ),
            dict(type='RandomCrop', crop_size=(16, 18), cat_max_ratio=0.75),
            dict(
                type='RandomFlip',
                prob=[0.5, 0.5],
                direction=['horizontal', 'vertical'],
            ),
            PackInputs(),
        ]
    )

    def run(image):
        np.random.seed(3)
        sample = dict(
            img_path='a',
            img=image,
            gt_seg_map=mask,
            seg_fields=['gt_seg_map'],
        )
        return pipeline(sample)

    packed = run(image)
    assert packed['inputs'].shape == (channels, 16, 18)
    assert packed['data_samples'].ori_shape == (30, 40)
    for k in range(channels):
        alone = run(image[..., k])['inputs']
        torch.testing.assert_close(
            packed['inputs'][k], alone[0], rtol=0, atol=1
        )
