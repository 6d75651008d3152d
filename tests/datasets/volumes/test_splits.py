"""Folds, equal to scikit-learn's, which are nnU-Net's."""

import json
from pathlib import Path

import pytest
from sklearn.model_selection import KFold

from upernet_ext.datasets.volumes.splits import (
    find_splits,
    make_splits,
    select_fold,
)

TWELVE = [f'case_{i:02d}' for i in range(12)]
# From sklearn.model_selection.KFold(5, shuffle=True, random_state=12345),
# scikit-learn 1.9.1: indices to validate on.
FOLDS_OF_TWELVE = [[0, 3, 8], [7, 10, 11], [6, 9], [1, 4], [2, 5]]


def test_folds_are_those_of_scikit_learn() -> None:
    splits = make_splits(TWELVE[::-1])
    assert len(splits) == 5
    for split, held_out in zip(splits, FOLDS_OF_TWELVE, strict=True):
        assert split['val'] == tuple(TWELVE[i] for i in held_out)
        rest = [c for c in TWELVE if c not in split['val']]
        assert split['train'] == tuple(rest)


def test_folds_of_many_cases_are_those_of_scikit_learn() -> None:
    fold_maker = KFold(5, shuffle=True, random_state=12345)
    for count in (5, 13, 260):
        cases = [f'{i:03d}' for i in range(count)]
        folds = fold_maker.split(cases)
        for split, (train, val) in zip(make_splits(cases), folds, strict=True):
            assert split['train'] == tuple(cases[i] for i in train)
            assert split['val'] == tuple(cases[i] for i in val)


def test_an_existing_split_wins(tmp_path: Path) -> None:
    first, second = tmp_path / 'first', tmp_path / 'second'
    for folder, case in ((first, 'case_03'), (second, 'case_04')):
        folder.mkdir()
        folds = [dict(train=['case_00'], val=[case])]
        (folder / 'splits_final.json').write_text(json.dumps(folds))
    for folders, case in (
        ((first, second), 'case_03'),
        ((tmp_path, second), 'case_04'),
    ):
        splits = find_splits(folders, TWELVE)
        assert splits == (dict(train=('case_00',), val=(case,)),)
    assert find_splits((tmp_path,), TWELVE) == make_splits(TWELVE)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('[{"train": ["case_00"]}]', 'must be a list.*KeyError'),
        ('{', 'must be a list'),
        ('[{"train": ["case_00"], "val": ["x"]}]', '1 cases that.*not: x'),
    ],
)
def test_a_wrong_file_is_named(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / 'splits_final.json').write_text(content)
    with pytest.raises(ValueError, match=f'splits_final.json.*{message}'):
        find_splits((tmp_path,), TWELVE)


def test_fold_all_trains_and_validates_on_every_case() -> None:
    split = select_fold(make_splits(TWELVE), 'all', TWELVE[::-1])
    assert split == dict(train=tuple(TWELVE), val=tuple(TWELVE))


def test_folds_by_number() -> None:
    splits = make_splits(TWELVE)
    assert select_fold(splits, 3, TWELVE) == splits[3]
    # From a command line.
    assert select_fold(splits, '3', TWELVE) == splits[3]
    for fold in (5, -1, 'every', 1.0):
        with pytest.raises(ValueError, match=f"0 to 4 or 'all', got {fold!r}"):
            select_fold(splits, fold, TWELVE)


def test_too_few_cases() -> None:
    with pytest.raises(ValueError, match=r"too few for 5 folds.*fold='all'"):
        select_fold(make_splits(TWELVE[:3]), 4, TWELVE[:3])
