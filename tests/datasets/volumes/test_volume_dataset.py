"""Datasets of volumes as a training run sees them."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from upernet_ext.datasets import (
    DataError,
    LoadCase,
    NnUNetDataset,
    VolumeFolderDataset,
)
from upernet_ext.datasets.volumes import (
    find_dataset,
    plan_dataset,
    preprocess_image,
    read_volume,
)

from .conftest import Make, save_volume

TRAIN = [dict(type='upernet_ext.LoadCase')]
TEST = [dict(type='upernet_ext.LoadCase', test_mode=True)]


def test_folds_and_splits(make_dataset: Make) -> None:
    make_dataset(num_cases=6, num_tests=2)
    folds = plan_dataset(4).folds
    for fold in (0, 4):
        for split in ('train', 'val'):
            data = NnUNetDataset(4, fold=fold, split=split)
            names = tuple(data[i]['case'] for i in range(len(data)))
            assert names == folds[fold][split]
    data = NnUNetDataset(4, fold='all')
    assert len(data) == 6
    data = NnUNetDataset(4, split='test', test_mode=True, pipeline=TEST)
    assert [s['case'] for s in data] == ['case_06', 'case_07']
    assert 'gt_seg_map' not in data[0]
    assert len(NnUNetDataset(4, indices=2)) == 2
    with pytest.raises(ValueError, match=r"split must be.*got 'trian'"):
        NnUNetDataset(4, split='trian')
    with pytest.raises(ValueError, match='fold must be 0 to 4'):
        NnUNetDataset(4, fold=7)


def test_without_test_cases_those_to_validate_on_are_tested(
    make_dataset: Make, log: Callable[[], str]
) -> None:
    make_dataset(num_cases=6)
    data = NnUNetDataset(4, fold=1, split='test', test_mode=True)
    assert [s['case'] for s in data] == list(data.plan.folds[1]['val'])
    assert 'no test cases: testing on the 1 cases that fold 1' in log()


def test_a_sample_in_training(make_dataset: Make) -> None:
    root = make_dataset(
        channels=('T1', 'CT'),
        shape=(18, 20, 7),
        spacings=((1, 1, 4.5), (0.8, 0.9, 4)),
    )
    data = NnUNetDataset(4, fold='all', pipeline=TRAIN)
    sample = data[1]
    assert sample['case'] == 'case_01'
    assert sample['img_paths'] == tuple(
        str(root / f'imagesTr/case_01_000{c}.nii.gz') for c in (0, 1)
    )
    assert sample['img_path'] == sample['img_paths'][0]
    assert sample['seg_map_path'] == str(root / 'labelsTr/case_01.nii.gz')
    assert sample['num_classes'] == 3
    assert sample['seg_fields'] == ['gt_seg_map']
    assert sample['channels_first'] is True
    assert 'label_sets' not in sample
    assert sample['img'].shape == (2, *sample['img_shape'])
    assert sample['img'].dtype == np.float32
    assert sample['gt_seg_map'].shape == sample['img_shape']
    assert sample['gt_seg_map'].dtype == np.uint8
    assert set(sample['foreground']) == {1, 2}
    for label, voxels in sample['foreground'].items():
        assert (sample['gt_seg_map'][tuple(voxels.T)] == label).all()
    # Samples go to the workers of a data loader.
    again = pickle.loads(pickle.dumps(data))[1]
    np.testing.assert_array_equal(again['img'], sample['img'])


def test_a_sample_in_tests_has_the_labels_of_the_file(
    make_dataset: Make,
) -> None:
    make_dataset(
        labels=dict(background=0, a=1, ignore=2),
        shape=(18, 20, 7),
        spacings=((1, 1, 4.5), (0.8, 0.9, 4)),
    )
    data = NnUNetDataset(
        4, fold='all', split='val', test_mode=True, pipeline=TEST
    )
    for sample in data:
        truth = read_volume(sample['seg_map_path']).array
        assert (truth == 2).any()
        expected = np.where(truth == 2, 255, truth)
        np.testing.assert_array_equal(sample['gt_seg_map'], expected)
        assert sample['gt_seg_map'].shape == sample['ori_shape']
        assert sample['seg_fields'] == []
        assert sample['img'].shape[1:] == sample['img_shape']
        assert 'foreground' not in sample


def test_what_the_dataset_tells_the_model(make_dataset: Make) -> None:
    make_dataset(
        labels=dict(background=0, both=[1, 2], right=2),
        regions_class_order=[1, 2],
        ending='.mha',
    )
    data = NnUNetDataset(4, pipeline=TRAIN)
    metainfo = data.metainfo
    assert metainfo['classes'] == ('both', 'right')
    assert len(metainfo['palette']) == 2
    assert metainfo['multi_label'] is True
    assert metainfo['regions_class_order'] == (1, 2)
    assert metainfo['file_ending'] == '.mha'
    sample = data[0]
    assert sample['num_classes'] == 2
    table = sample['label_sets']
    assert table[[0, 1, 2, 255]].tolist() == [
        [0, 0],
        [1, 0],
        [1, 1],
        [255, 255],
    ]
    # From a checkpoint's metainfo to a new image.
    plan = json.loads(json.dumps(metainfo['plan']))
    loaded = LoadCase(test_mode=True, plan=plan)(
        dict(img_path='x', img_paths=list(sample['img_paths']))
    )
    np.testing.assert_array_equal(loaded['img'], sample['img'])
    assert loaded['crop_box'] == sample['crop_box']
    assert loaded['channels_first'] is True


def test_in_2d_samples_are_volumes_too(make_dataset: Make) -> None:
    make_dataset(shape=(8, 20, 22), spacings=((6, 1, 1), (5, 0.8, 1)))
    data = NnUNetDataset(4, '2d', fold='all', pipeline=TRAIN)
    assert data.plan.spatial_dims == 2
    for sample in data:
        (start, stop), *_ = sample['crop_box']
        assert sample['img_shape'][0] == stop - start
        assert sample['img'].shape == (1, *sample['img_shape'])


def test_the_plan_is_there_before_the_cases(
    make_dataset: Make, tmp_path: Path
) -> None:
    make_dataset()
    data = NnUNetDataset(4, '2d', lazy_init=True)
    assert data.make_plan() == plan_dataset(4, '2d')
    assert not list(tmp_path.rglob('2d_upernet_*'))


def test_nothing_is_looked_for_before_it_is_needed() -> None:
    data = NnUNetDataset(4, raw='/nowhere', lazy_init=True)
    with pytest.raises(ValueError, match='/nowhere'):
        data.full_init()
    data = NnUNetDataset(4, raw='/x', lazy_init=True, test_mode=True)
    assert data.metainfo['classes'] == ()


def test_errors_name_the_file(make_dataset: Make) -> None:
    make_dataset()
    data = NnUNetDataset(4, fold='all', pipeline=TRAIN)
    sample = data.get_data_info(0)
    for path in Path(sample['preprocessed']).parent.glob('case_00*img.npy'):
        path.unlink()
    with pytest.raises(DataError, match=r'case_00_0000.*LoadCase.*img\.npy'):
        data[0]


def test_training_needs_labels(make_dataset: Make) -> None:
    make_dataset(num_tests=1)
    data = NnUNetDataset(4, split='test', pipeline=TRAIN)
    with pytest.raises(DataError, match=r'case_05_0000.*has no labels'):
        data[0]
    with pytest.raises(ValueError, match=r'x: LoadCase needs.*or plan='):
        LoadCase()(dict(img_path='x', img_paths=['x']))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(5):
        labels = rng.integers(0, 3, (6, 8, 8 + i)).astype(np.uint8)
        image = (labels * 10 + 5 + rng.random(labels.shape)).astype('f4')
        save_volume(tmp_path / f'd/images/p{i}.nii.gz', image)
        save_volume(tmp_path / f'd/labels/p{i}.nii.gz', labels)
    return tmp_path / 'd'


def test_a_plain_folder_is_a_dataset(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('nnUNet_preprocessed', raising=False)
    options = dict(classes=['background', 'a', 'b'], pipeline=TRAIN)
    train = VolumeFolderDataset(folder, fold=2, **options)
    val = VolumeFolderDataset(folder, fold=2, split='val', **options)
    assert (len(train), len(val)) == (4, 1)
    assert train.metainfo['classes'] == ('background', 'a', 'b')
    names = {s['case'] for s in (*train, *val)}
    assert names == {f'p{i}' for i in range(5)}
    image = read_volume(train[0]['img_path']).array
    expected = (image - image.mean()) / image.std()
    np.testing.assert_allclose(train[0]['img'][0], expected, atol=1e-5)
    # Beside the folder, nothing in it.
    assert sorted(p.name for p in folder.iterdir()) == ['images', 'labels']
    assert (folder.parent / 'nnUNet_preprocessed' / 'd').is_dir()


def test_the_decathlons_four_axes_are_channels(tmp_path: Path) -> None:
    import nibabel

    root = tmp_path / 'Task01'
    (root / 'imagesTr').mkdir(parents=True)
    pairs = []
    rng = np.random.default_rng(0)
    for i in range(5):
        image = rng.normal(50, 9, (8, 7, 6, 2)).astype(np.float32)
        path = root / f'imagesTr/b{i}.nii.gz'
        nibabel.Nifti1Image(image, np.eye(4)).to_filename(path)
        labels = rng.integers(0, 2, (6, 7, 8)).astype(np.uint8)
        save_volume(root / f'labelsTr/b{i}.nii.gz', labels)
        pairs.append(
            dict(
                image=f'./imagesTr/b{i}.nii.gz',
                label=f'./labelsTr/b{i}.nii.gz',
            )
        )
    (root / 'dataset.json').write_text(
        json.dumps(
            dict(
                modality={'0': 'FLAIR', '1': 'noNorm'},
                labels={'0': 'background', '1': 'tumour'},
                training=pairs,
            )
        )
    )
    data = VolumeFolderDataset(
        root, fold='all', pipeline=TRAIN, preprocessed=tmp_path / 'cache'
    )
    assert data.plan.in_channels == 2
    source = nibabel.load(data[0]['img_path']).get_fdata()
    np.testing.assert_allclose(data[0]['img'][1], source[..., 1].T)
    paths = data[0]['img_paths']
    again = preprocess_image(paths, data.plan)
    np.testing.assert_array_equal(again['img'], data[0]['img'])


def test_a_dataset_by_its_folder(make_dataset: Make) -> None:
    root = make_dataset()
    by_path = NnUNetDataset(root, preprocessed=root.parents[1] / 'other')
    assert len(by_path) == 4
    assert find_dataset(root).name == by_path.plan.dataset
    assert (root.parents[1] / 'other' / root.name).is_dir()
