"""dataset.json, the files it speaks of, and what is wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from upernet_ext.datasets.volumes import (
    find_dataset,
    find_volume_folder,
    nnunet_folder,
    read_volume,
)
from upernet_ext.datasets.volumes.labels import Labels, parse_labels

from .conftest import Make, save_volume

REGIONS = dict(
    labels=dict(background=0, whole=[1, 2, 3], core=[2, 3], active=3),
    regions_class_order=[1, 2, 3],
)


def edit(root: Path, **changes: object) -> None:
    path = root / 'dataset.json'
    content = json.loads(path.read_text())
    content.update(changes)
    content = {k: v for k, v in content.items() if v is not None}
    path.write_text(json.dumps(content))


def test_classes_in_the_order_of_their_values() -> None:
    labels = parse_labels(dict(labels=dict(b=2, background=0, a=1)), 'x')
    assert labels == Labels(('background', 'a', 'b'), 3)
    assert not labels.multi_label
    assert labels.label_sets() is None


def test_the_decathlon_writes_values_first() -> None:
    labels = parse_labels(
        dict(labels={'0': 'background', '1': 'Anterior'}), 'x'
    )
    assert labels == Labels(('background', 'Anterior'), 2)


def test_regions_are_classes_that_overlap() -> None:
    labels = parse_labels(REGIONS, 'x')
    assert labels.classes == ('whole', 'core', 'active')
    assert labels.regions == ((1, 2, 3), (2, 3), (3,))
    assert labels.regions_class_order == (1, 2, 3)
    assert labels.multi_label
    table = labels.label_sets()
    assert table.dtype == np.uint8
    assert table[:4].tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert table.shape == (256, 3)
    assert table[255].tolist() == [255] * 3


def test_lists_of_one_are_labels() -> None:
    labels = parse_labels(dict(labels=dict(background=[0], a=[1])), 'x')
    assert labels == Labels(('background', 'a'), 2)


@pytest.mark.parametrize(
    ('description', 'message'),
    [
        (dict(), 'needs labels'),
        (dict(labels=['background']), 'needs labels'),
        (dict(labels=dict(a=1, b=2)), '"background": 0'),
        (dict(labels=dict(background=0, a=2)), r'without a gap, got \[0, 2\]'),
        (dict(labels=dict(background=0, a=1, b=1)), 'two labels'),
        (dict(labels=dict(background=0, a='one')), "'a' must be an integer"),
        (dict(labels=dict(background=0, a=1, ignore=3)), r'label, 2, got'),
        (dict(labels=dict(background=0, ignore=[1, 2])), r'label, 1, got'),
        (dict(labels=REGIONS['labels']), 'the 3 regions.*regions_class_ord'),
        (dict(REGIONS, regions_class_order=[1]), 'the 3 regions'),
        (
            dict(
                labels={'background': 0, **{f'l{i}': i for i in range(1, 255)}}
            ),
            '255 labels, but',
        ),
    ],
)
def test_labels_that_cannot_be(description: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f'x.json.*{message}'):
        parse_labels(description, 'x.json')


@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.float64])
def test_label_files_become_label_maps(tmp_path: Path, dtype: type) -> None:
    values = np.array([[[0, 1, 2, 3]]])
    path = save_volume(tmp_path / 'l.nii.gz', values.astype(dtype))
    image = read_volume(path)
    labels = parse_labels(
        dict(labels=dict(background=0, a=1, b=2, ignore=3)), 'x'
    )
    read = labels.read(str(path), like=image)
    assert read.dtype == np.uint8
    assert read.tolist() == [[[0, 1, 2, 255]]]


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        ([0, 1, 1.5, 0.25], '2 voxels are not, such as 1.5'),
        ([0, 1, 3, 4], r'2 voxels have values 3, 4.*no labels.*0 to 2'),
        ([0, -1, 1, 2], 'values -1'),
        ([0, 256, 1, 2], 'values 256'),
        ([0, 1, np.nan, 0], '1 voxels are NaN'),
    ],
)
def test_values_that_are_no_labels(
    tmp_path: Path, values: list, message: str
) -> None:
    kind = float if any(v != int(v or 0) for v in values if v == v) else None
    array = np.array([[values]], kind or np.float32)
    path = save_volume(tmp_path / 'wrong.nii.gz', array)
    image = save_volume(tmp_path / 'image.nii.gz', np.zeros((1, 1, 4)))
    labels = Labels(('background', 'a', 'b'), 3)
    with pytest.raises(ValueError, match=f'wrong.nii.gz.*{message}'):
        labels.read(str(path), like=read_volume(image))


@pytest.mark.parametrize('ending', ['.nii.gz', '.nii', '.mha', '.nrrd'])
def test_a_dataset_is_found(make_dataset: Make, ending: str) -> None:
    root = make_dataset(
        channels=('T1', 'CT'), num_cases=3, num_tests=2, ending=ending
    )
    found = [find_dataset(d) for d in (4, '4', 'Dataset004_Blobs', root)]
    assert found[0] == found[1] == found[2] == found[3]
    dataset = found[0]
    assert dataset.name == 'Dataset004_Blobs'
    assert dataset.channel_names == ('T1', 'CT')
    assert dataset.labels.classes == ('background', 'left', 'right')
    names = [case.name for case in dataset.training]
    assert names == ['case_00', 'case_01', 'case_02']
    case = dataset.training[1]
    assert case.images == tuple(
        str(root / 'imagesTr' / f'case_01_{c:04d}{ending}') for c in (0, 1)
    )
    assert case.labels == str(root / 'labelsTr' / f'case_01{ending}')
    assert [case.name for case in dataset.testing] == ['case_03', 'case_04']
    assert dataset.testing[0].labels is None
    # The labels of test cases, where they are.
    first = root / 'labelsTr' / f'case_00{ending}'
    (root / 'labelsTs').mkdir()
    first.rename(root / 'labelsTs' / f'case_03{ending}')
    for image in (root / 'imagesTr').glob('case_00_*'):
        image.unlink()
    assert find_dataset(4).testing[0].labels.endswith(f'case_03{ending}')


def test_a_dataset_that_lists_its_files(make_dataset: Make) -> None:
    root = make_dataset(num_cases=2)
    listed = {
        'b': dict(images=['imagesTr/case_00_0000.nii.gz'], label='l/b.nii'),
        'a': dict(images=['/data/a.nii.gz'], label='$HERE/a.nii'),
    }
    edit(root, dataset=listed)
    cases = find_dataset(root).training
    assert [case.name for case in cases] == ['a', 'b']
    assert cases[0].images == ('/data/a.nii.gz',)
    assert cases[1].labels == str(root / 'l/b.nii')


def test_a_number_of_cases_that_is_not_there_is_said(
    make_dataset: Make, log: Callable[[], str]
) -> None:
    root = make_dataset(num_cases=2)
    find_dataset(4)
    assert not log()
    edit(root, numTraining=3)
    find_dataset(4)
    assert 'dataset.json: numTraining is 3, but there are 2 cases' in log()


def test_hidden_files_are_no_cases(make_dataset: Make) -> None:
    root = make_dataset(num_cases=2)
    for folder in ('imagesTr', 'labelsTr'):
        (root / folder / '._case_07_0000.nii.gz').touch()
    assert len(find_dataset(4).training) == 2


def _lose(pattern: str) -> Callable[[Path], None]:
    def lose(root: Path) -> None:
        for path in root.glob(pattern):
            path.unlink()

    return lose


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (_lose('dataset.json'), 'dataset.json: unreadable: FileNotFound'),
        (
            lambda r: (r / 'dataset.json').write_text('[1]'),
            'dataset.json: must hold an object',
        ),
        (lambda r: edit(r, file_ending='.png'), "one of .nii.gz.*'.png'"),
        (lambda r: edit(r, channel_names=None), 'needs channel_names'),
        (
            lambda r: edit(r, channel_names={'1': 'CT'}),
            "needs channel_names.*got {'1': 'CT'}",
        ),
        (
            _lose('imagesTr/case_01_0001.nii.gz'),
            r'imagesTr: case case_01 needs a file for each of 2 channels',
        ),
        (_lose('imagesTs/*_0000.nii.gz'), 'imagesTs: case case_02 needs'),
        (_lose('labelsTr/case_01.nii.gz'), r'labelsTr/case_01.nii.gz: miss'),
        (
            _lose('imagesTr/case_01_*'),
            r'labelsTr/case_01.nii.gz: 1 label files without an image',
        ),
        (_lose('*/*.nii.gz'), 'imagesTr: no case of the name'),
        (
            lambda r: edit(r, dataset={'a': dict(images=[])}),
            "dataset must be.*KeyError: 'label'",
        ),
    ],
)
def test_what_is_wrong_with_a_dataset_is_named(
    make_dataset: Make, spoil: Callable[[Path], None], message: str
) -> None:
    root = make_dataset(channels=('T1', 'T2'), num_cases=2, num_tests=1)
    spoil(root)
    with pytest.raises(ValueError, match=message) as error:
        find_dataset(4)
    assert str(root) in str(error.value)


def test_datasets_that_are_not_there(
    make_dataset: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset()
    with pytest.raises(ValueError, match=r'no folders.*Dataset007_\*.*004_Bl'):
        find_dataset(7)
    with pytest.raises(ValueError, match=r'no folders.*looked for /nowhere'):
        find_dataset('/nowhere')
    (root.parent / 'Dataset004_Other').mkdir()
    with pytest.raises(ValueError, match='2 folders for dataset 4'):
        find_dataset(4)
    monkeypatch.delenv('nnUNet_raw')
    with pytest.raises(ValueError, match='environment variable nnUNet_raw'):
        find_dataset('Dataset004_Blobs')
    assert find_dataset(root).root == root
    assert find_dataset('Dataset004_Blobs', root.parent).root == root


def test_folders_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv('nnUNet_results', '/results')
    monkeypatch.delenv('nnUNet_preprocessed', raising=False)
    assert nnunet_folder('results') == Path('/results')
    assert nnunet_folder('results', 'here') == Path('here')
    assert nnunet_folder('preprocessed') is None


def make_folder(root: Path, images: str = 'images') -> Path:
    for i, ending in enumerate(['.nii.gz', '.mha']):
        array = np.full((2, 3, 4), i, np.int16)
        save_volume(root / images / f'p{i}{ending}', array)
        save_volume(root / 'labels' / f'p{i}.nii.gz', array)
    return root


def test_a_plain_folder(tmp_path: Path) -> None:
    root = make_folder(tmp_path / 'mine')
    dataset = find_volume_folder(
        root, ['background', 'a'], channel_names=['CT']
    )
    assert dataset.name == 'mine'
    assert dataset.channel_names == ('CT',)
    assert [case.name for case in dataset.training] == ['p0', 'p1']
    case = dataset.training[1]
    assert case.images == (str(root / 'images' / 'p1.mha'),)
    assert case.labels == str(root / 'labels' / 'p1.nii.gz')
    assert dataset.labels == Labels(('background', 'a'), 2)


def test_a_decathlon_folder(tmp_path: Path) -> None:
    root = make_folder(tmp_path / 'Task04', 'imagesTr')
    pair = dict(image='./imagesTr/p0.nii.gz', label='./labels/p0.nii.gz')
    (root / 'dataset.json').write_text(
        json.dumps(
            dict(
                modality={'0': 'FLAIR', '1': 'T1w'},
                labels={'0': 'background', '1': 'a'},
                training=[pair],
                test=['./imagesTr/p1.mha'],
            )
        )
    )
    dataset = find_volume_folder(root)
    assert dataset.channel_names == ('FLAIR', 'T1w')
    assert [case.name for case in dataset.training] == ['p0']
    assert dataset.training[0].labels == str(root / 'labels/p0.nii.gz')
    assert [case.name for case in dataset.testing] == ['p1']
    edit(root, training=[pair, pair])
    with pytest.raises(ValueError, match=r'dataset.json: p0 .*more than'):
        find_volume_folder(root)
    edit(root, training=[])
    with pytest.raises(ValueError, match='training lists no case'):
        find_volume_folder(root)
    edit(root, training=['p0'])
    with pytest.raises(ValueError, match=r'must be a list of \{"image"'):
        find_volume_folder(root)


@pytest.mark.parametrize(
    ('spoil', 'options', 'message'),
    [
        (lambda r: None, dict(), 'needs classes='),
        (
            _lose('labels/p1.nii.gz'),
            dict(classes=['background', 'a']),
            r'2 images and 1 labels.*images/p1.mha',
        ),
        (
            _lose('*/*'),
            dict(classes=['background', 'a']),
            '0 images and 0 labels',
        ),
        (
            lambda r: (r / 'labels').rename(r / 'truth'),
            dict(classes=['background', 'a']),
            'no folder labelsTr or labels.*ann_dir',
        ),
        (
            lambda r: None,
            dict(classes=['background', 'a'], img_dir='scans'),
            'no folder scans',
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_named(
    tmp_path: Path,
    spoil: Callable[[Path], None],
    options: dict,
    message: str,
) -> None:
    root = make_folder(tmp_path)
    spoil(root)
    with pytest.raises(ValueError, match=message) as error:
        find_volume_folder(root, **options)
    assert str(root) in str(error.value)
