"""Which cases train and which validate, as in nnU-Net."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

NUM_FOLDS = 5
SEED = 12345

Split = dict[str, tuple[str, ...]]


def make_splits(cases: Sequence[str]) -> tuple[Split, ...]:
    """Split cases into five folds.

    They are scikit-learn's ``KFold(5, shuffle=True, random_state=12345)``
    over the sorted names, which is what nnU-Net uses
    (nnunetv2/utilities/crossval_split.py).

    Returns:
        For each fold the names ``'train'`` and ``'val'``, sorted.
    """
    cases = sorted(cases)
    order = np.random.RandomState(SEED).permutation(len(cases))
    folds = []
    for held_out in np.array_split(order, NUM_FOLDS):
        chosen = set(held_out.tolist())
        folds.append(
            dict(
                train=tuple(c for i, c in enumerate(cases) if i not in chosen),
                val=tuple(c for i, c in enumerate(cases) if i in chosen),
            )
        )
    return tuple(folds)


def read_splits(path: Path, cases: Sequence[str]) -> tuple[Split, ...]:
    """Read a ``splits_final.json``.

    Raises:
        ValueError: It is no list of train and val names, or names cases
            that do not exist.
    """
    try:
        content = json.loads(path.read_text())
        folds = tuple(
            {part: tuple(fold[part]) for part in ('train', 'val')}
            for fold in content
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f'{path}: must be a list of {{"train": [case, ...], "val": '
            f'[case, ...]}}: {type(error).__name__}: {error}'
        ) from error
    named = {case for fold in folds for part in fold.values() for case in part}
    unknown = sorted(named - set(cases))
    if unknown:
        raise ValueError(
            f'{path} names {len(unknown)} cases that the dataset has not: '
            f'{", ".join(unknown[:5])}'
        )
    return folds


def find_splits(
    folders: Sequence[Path], cases: Sequence[str]
) -> tuple[Split, ...]:
    """Read the ``splits_final.json`` of the first folder that has one.

    Without one, the cases are split as nnU-Net does.
    """
    for folder in folders:
        path = folder / 'splits_final.json'
        if path.is_file():
            return read_splits(path, cases)
    return make_splits(cases)


def select_fold(
    splits: Sequence[Split], fold: int | str, cases: Sequence[str]
) -> Split:
    """Return one fold's names.

    Args:
        splits: All folds.
        fold: Its number, or ``'all'``: every case trains and validates, as
            in nnU-Net.
        cases: All names, for ``'all'``.

    Raises:
        ValueError: There is no such fold, or it is empty.
    """
    if fold == 'all':
        return dict(train=tuple(sorted(cases)), val=tuple(sorted(cases)))
    if str(fold) not in map(str, range(len(splits))):
        raise ValueError(
            f"fold must be 0 to {len(splits) - 1} or 'all', got {fold!r}"
        )
    split = splits[int(fold)]
    if not split['train'] or not split['val']:
        raise ValueError(
            f'fold {fold} has {len(split["train"])} cases to train and '
            f'{len(split["val"])} to validate: {len(cases)} cases are too few '
            f"for {len(splits)} folds; use fold='all' or a splits_final.json"
        )
    return split
