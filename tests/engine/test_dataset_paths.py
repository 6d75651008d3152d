import pytest

from upernet_ext.engine.dataset_paths import (
    DataNotFoundError,
    check_dataset_paths,
)


def ade20k(root):
    return dict(
        type='ADE20KDataset',
        data_root=str(root),
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'
        ),
    )


def test_missing_root_names_root_and_contents(tmp_path):
    root = tmp_path / 'ADEChallengeData2016'
    with pytest.raises(DataNotFoundError) as error:
        check_dataset_paths(ade20k(root))
    message = str(error.value)
    assert message.startswith(f'{root} does not exist')
    assert str(root / 'images/training') in message
    assert str(root / 'annotations/training') in message
    assert '\n' not in message


def test_missing_folder_or_list_is_named(tmp_path):
    (tmp_path / 'images/training').mkdir(parents=True)
    missing = tmp_path / 'annotations/training'
    with pytest.raises(DataNotFoundError, match=f'^{missing} does not exist'):
        check_dataset_paths(ade20k(tmp_path))
    missing.mkdir(parents=True)
    check_dataset_paths(ade20k(tmp_path))
    cfg = dict(ade20k(tmp_path), ann_file='train.txt')
    with pytest.raises(DataNotFoundError, match=r'train\.txt does not exist'):
        check_dataset_paths(cfg)


@pytest.mark.parametrize('key', ['dataset', 'datasets'])
def test_wrapped_datasets_are_checked(tmp_path, key):
    inner = ade20k(tmp_path / 'none')
    cfg = {'type': 'Wrapper', key: inner if key == 'dataset' else [inner]}
    with pytest.raises(DataNotFoundError, match='none does not exist'):
        check_dataset_paths(cfg)


@pytest.mark.parametrize(
    'cfg',
    [
        dict(type='upernet_ext.MNI152Dataset'),
        dict(type='ADE20KDataset', data_root='s3://bucket/ade'),
        dict(ade20k('/none'), backend_args=dict(backend='petrel')),
        ['a built dataset'],
    ],
)
def test_what_cannot_be_checked_is_passed_over(cfg):
    check_dataset_paths(cfg)
