"""From files and arrays to what a trained model takes."""

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope

from ..config import ConfigError
from ..datasets.pipeline import run_pipeline
from ..engine import DataNotFoundError

# A file or an array; of a volume, a file or the files of its channels.
Image = str | os.PathLike | np.ndarray | Sequence[str | os.PathLike]


def scope(cfg: Config) -> str:
    """Return the default scope of a config."""
    return cfg.get('default_scope') or 'mmseg'


def dataset_config(cfg: Config) -> Mapping:
    """Return the config of the dataset that is tested.

    Raises:
        ConfigError: There is none.
    """
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if loader is None:
        raise ConfigError(
            'the config has no test_dataloader, whose pipeline says how to '
            'prepare an image'
        )
    dataset = loader['dataset']
    # A wrapper's; of volumes `dataset` is a name or number.
    while isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    return dataset


def takes_volumes(cfg: Config) -> bool:
    """Whether the test pipeline of a config starts from cases of volumes."""
    names = map(_name, dataset_config(cfg).get('pipeline', []))
    return 'LoadCase' in names


def prepare(cfg: Config, images: Iterable[Image]) -> Iterator[dict]:
    """Run the test pipeline: yield the model's input of each image.

    Raises:
        DataError: An image cannot be read or transformed; names it.
        ValueError: An array, where the pipeline reads volumes.
    """
    from_file, from_array = _pipelines(cfg)
    for i, image in enumerate(images):
        if isinstance(image, np.ndarray):
            if takes_volumes(cfg):
                raise ValueError(
                    f'array {i} of shape {image.shape} has no spacing, which '
                    'the model of volumes needs; give it the file'
                )
            if image.ndim == 3 and image.shape[2] == 3:
                image = image[..., ::-1]
            sample = dict(img_path=f'array {i}', img=image)
            yield run_pipeline(from_array, sample)
        else:
            single = isinstance(image, str | os.PathLike)
            paths = tuple(map(os.fspath, [image] if single else image))
            sample = dict(img_path=paths[0], img_paths=paths)
            yield run_pipeline(from_file, sample)


def batches(inputs: Iterable[dict], batch_size: int) -> Iterator[dict]:
    """Collate neighbours of equal size."""
    batch: list[dict] = []
    for item in inputs:
        if batch and (
            len(batch) == batch_size
            or item['inputs'].shape != batch[0]['inputs'].shape
        ):
            yield pseudo_collate(batch)
            batch = []
        batch.append(item)
    if batch:
        yield pseudo_collate(batch)


def find_files(
    pattern: str, wanted: Callable[[Path], bool], kind: str
) -> tuple[Path, list[Path]]:
    """Find a file, those of a folder and its subfolders, or of a pattern.

    Args:
        pattern: The file, folder or pattern, such as ``'scans/**/*.tif'``.
        wanted: Which files of a folder to take.
        kind: Of what, for the message.

    Returns:
        The folder that the names of results are relative to, and the files.

    Raises:
        DataNotFoundError: There is no file.
    """
    path = Path(pattern)
    if path.is_dir():
        root, found = path, [f for f in path.rglob('*') if wanted(f)]
    elif path.is_file():
        root, found = path.parent, [path]
    else:
        fixed = takewhile(lambda part: not glob.has_magic(part), path.parts)
        root = Path(*fixed)
        names = map(Path, glob.glob(pattern, recursive=True))
        found = [f for f in names if f.is_file()]
    if not found:
        raise DataNotFoundError(
            f'no {kind} at {pattern} (looked in {Path.cwd()})'
        )
    return root, sorted(found)


def _pipelines(cfg: Config) -> tuple[Compose, Compose]:
    """Build the test pipeline without masks, for files and for arrays."""
    from_file = [
        transform
        for transform in dataset_config(cfg)['pipeline']
        if not _name(transform).startswith(('LoadMask', 'LoadAnnotation'))
    ]
    # LoadImage takes arrays too.
    from_array = [
        dict(type='mmseg.LoadImageFromNDArray')
        if _name(transform).startswith('LoadImageFrom')
        else transform
        for transform in from_file
    ]
    with DefaultScope.overwrite_default_scope(scope(cfg)):
        return Compose(from_file), Compose(from_array)


def _name(transform: Mapping) -> str:
    return str(transform['type']).split('.')[-1]
