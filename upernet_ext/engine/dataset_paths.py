"""Say what is missing before a dataset is built."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


class DataNotFoundError(FileNotFoundError):
    """A folder or file that a dataset is configured to read is not there."""


def _datasets(cfg: Any) -> Iterator[Mapping]:
    """Yield dataset configs, through wrappers such as ``RepeatDataset``."""
    if not isinstance(cfg, Mapping):
        return
    if 'dataset' in cfg:
        yield from _datasets(cfg['dataset'])
    elif 'datasets' in cfg:
        for inner in cfg['datasets']:
            yield from _datasets(inner)
    else:
        yield cfg


def _is_remote(cfg: Mapping) -> bool:
    return bool(cfg.get('backend_args')) or '://' in str(cfg['data_root'])


def check_dataset_paths(cfg: Any) -> None:
    """Check that the folders and files a dataset config names exist.

    Looks at ``data_root``, and at ``data_prefix`` and ``ann_file`` below it,
    of the dataset and of those it wraps. A dataset without ``data_root``, or
    on a remote file system, looks after itself.

    Args:
        cfg: A dataset config; anything else is passed over.

    Raises:
        DataNotFoundError: Names what is missing, what else is expected there
            and the key that says where to look.
    """
    for dataset in _datasets(cfg):
        if not dataset.get('data_root') or _is_remote(dataset):
            continue
        root = Path(dataset['data_root'])
        prefixes = dataset.get('data_prefix') or {}
        below = [*prefixes.values(), dataset.get('ann_file')]
        expected = [root / name for name in below if name]
        missing = [path for path in (root, *expected) if not path.exists()]
        if missing:
            contents = ', '.join(str(path) for path in expected)
            raise DataNotFoundError(
                f'{missing[0]} does not exist'
                f' (looked in {Path.cwd()}), but '
                f'{dataset.get("type", "the dataset")} reads '
                f'{contents or root}; put the data there, or link it, or '
                'set the data_root of the dataset'
            )
