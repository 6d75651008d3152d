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
    assert labels.data.dtype == torch.uint8
    np.testing.assert_array_equal(labels.data, mask[None])
    assert labels.spacing == (2.0,)
    assert sample['data_samples'].img_shape == packed[1:]
    assert sample['data_samples'].pad_shape == packed[1:]


def test_a_slice_has_its_channels_first():
    image = RNG.standard_normal((3, 6, 5)).astype(np.float32)
    mask = RNG.integers(0, 9, (6, 5), dtype=np.uint8)
    packed = PackInputs()(
        dict(img=image, gt_seg_map=mask, channels_first=True)
    )
    np.testing.assert_array_equal(packed['inputs'], image)
    assert packed['data_samples'].img_shape == (6, 5)


@pytest.mark.parametrize('grid', [(6, 5), (4, 6, 5)])
def test_label_sets_of_any_rank_become_channels(grid):
    sets = np.full((256, 3), 255, np.uint8)
    sets[:3] = [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    mask = RNG.choice(np.uint8([0, 1, 2, 255]), grid)
    labels = PackInputs()(
        dict(
            img=np.zeros((2, *grid), np.float32),
            gt_seg_map=mask,
            label_sets=sets,
            channels_first=True,
        )
    )['data_samples'].gt_sem_seg.data
    assert labels.shape == (3, *grid)
    assert labels.is_contiguous()
    for k in range(3):
        np.testing.assert_array_equal(labels[k], sets[mask, k])


def test_what_is_mapped_from_a_file_becomes_the_models_own(tmp_path):
    np.save(tmp_path / 'a.npy', np.ones((1, 2, 3, 4), np.float32))
    image = np.load(tmp_path / 'a.npy', mmap_mode='r')
    packed = PackInputs()(dict(img=image, gt_seg_map=image[0]))
    packed['inputs'] += 1
    assert (image == 1).all()


def test_the_way_back_to_the_file_travels_along():
    geometry = dict(
        case='case_1',
        img_paths=('a.nii.gz', 'b.nii.gz'),
        spacing=(2.0, 1.0, 1.0),
        ori_spacing=(1.0, 4.0, 1.0),
        ori_shape=(5, 3, 9),
        axes=(1, 0, 2),
        crop_box=((0, 2), (1, 5), (0, 9)),
    )
    truth = RNG.integers(0, 3, (5, 3, 9), dtype=np.uint8)
    sample = PackInputs()(
        dict(img=np.zeros((1, 2, 4, 9)), gt_seg_map=truth, **geometry)
    )['data_samples']
    for key, value in geometry.items():
        assert sample.metainfo[key] == value
    assert sample.img_shape == (2, 4, 9)
    np.testing.assert_array_equal(sample.gt_sem_seg.data[0], truth)


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
