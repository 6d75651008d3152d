"""Segment files of volumes, a case at a time."""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from rich.progress import track
from torch import nn

from ..datasets.volumes import VOLUME_SUFFIXES
from ..evaluation.label_files import write_prediction
from ..visualization import draw_volume, save_picture, source_image
from .inputs import find_files, prepare

_NAME = re.compile(
    r'(?P<case>.+?)(_(?P<channel>\d{4}))?(\.nii\.gz|\.[^.]*)?', re.IGNORECASE
)


def predict_cases(
    model: nn.Module,
    volumes: str | os.PathLike,
    out_dir: str | os.PathLike,
    *,
    opacity: float = 0.5,
) -> tuple[int, int]:
    """Segment cases, and write a label map and a picture of each.

    Below ``out_dir``, in the subfolders of the volumes:
    ``labels/{case}.nii.gz``, or as the volume's name ends, with the volume's
    affine and header; and ``overlays/{case}.png`` (see ``draw_volume``). A
    case that fails is logged with its name, and the others go on.

    Args:
        model: From ``init_model``.
        volumes: See ``find_cases``.
        out_dir: Where to write.
        opacity: Of the colours over the image, 0..1.

    Returns:
        The number of cases, and how many of them failed.

    Raises:
        DataNotFoundError: There are no volumes.
    """
    num_channels = model.cfg.model['in_channels']
    cases = find_cases(os.fspath(volumes), num_channels)
    failed = 0
    for name, files in track(cases.items(), 'Predicting'):
        try:
            _check_channels(files, num_channels)
            _predict_case(model, files, name, Path(out_dir), opacity)
        except (OSError, ValueError) as error:
            failed += 1
            print_log(f'{name}: {error}', 'current', logging.ERROR)
    return len(cases), failed


def find_cases(pattern: str, num_channels: int) -> dict[Path, list[Path]]:
    """Find volumes, and put the channels of a case together.

    Files of several channels are named as nnU-Net's, ``{case}_0000.nii.gz``,
    ``{case}_0001.nii.gz``, ...; or one file holds them all. Of one channel,
    ``_0000`` is left out of the name of a case where every file has it.

    Args:
        pattern: A volume, or the file of one of its channels; a folder, which
            is searched with its subfolders; or a pattern such as
            ``'scans/**/t1.nrrd'``.
        num_channels: That the model takes.

    Returns:
        The name below the output folders, without suffix, and the files.

    Raises:
        DataNotFoundError: There are no volumes.
    """
    root, files = find_files(pattern, _is_volume, 'volumes')
    grouped = num_channels > 1
    if grouped and files == [Path(pattern)]:
        case = _split(files[0])[0]
        siblings = sorted(filter(_is_volume, root.iterdir()))
        files = [f for f in siblings if _split(f)[0] == case] or files
    elif not grouped:
        grouped = all(_split(file)[1] == '0000' for file in files)
    cases = defaultdict(list)
    for file in files:
        case, channel = _split(file)
        if channel and not grouped:
            case = f'{case}_{channel}'
        cases[file.relative_to(root).parent / case].append(file)
    return dict(cases)


def _is_volume(path: Path) -> bool:
    # Names of files that macOS puts beside others start with a dot.
    name = path.name.lower()
    return name.endswith(VOLUME_SUFFIXES) and not name.startswith('.')


def _split(file: Path) -> tuple[str, str | None]:
    """Return case and channel of a file."""
    match = _NAME.fullmatch(file.name)
    return match['case'], match['channel']


def _check_channels(files: Sequence[Path], num_channels: int) -> None:
    found = [_split(file)[1] for file in files]
    wanted = [f'{channel:04d}' for channel in range(num_channels)]
    if num_channels > 1 and found != [None] and found != wanted:
        missing = sorted({*wanted} - {*found})
        raise ValueError(
            f'the model takes {num_channels} channels, files ending in '
            f'{", ".join(wanted)}; there are '
            f'{", ".join(file.name for file in files)}, and {missing} '
            f'are missing'
        )


def _predict_case(
    model: nn.Module,
    files: Sequence[Path],
    name: Path,
    out_dir: Path,
    opacity: float,
) -> None:
    (item,) = prepare(model.cfg, [files])
    inputs = item['inputs']
    with torch.no_grad():
        (sample,) = model.test_step(pseudo_collate([item]))
    meta, labels = model.dataset_meta, sample.pred_sem_seg
    write_prediction(
        out_dir / 'labels' / name,
        labels.data,
        like=files[0],
        regions_class_order=meta.get('regions_class_order'),
    )
    picture = draw_volume(
        source_image(inputs, sample.metainfo, labels.shape),
        None,
        labels.data,
        spacing=sample.metainfo['ori_spacing'],
        classes=meta['classes'],
        palette=meta['palette'],
        opacity=opacity,
    )
    overlays = out_dir / 'overlays' / name
    save_picture(overlays.with_name(f'{overlays.name}.png'), picture)
