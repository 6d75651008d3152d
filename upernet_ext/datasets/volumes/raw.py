"""Find the files of a dataset of volumes."""

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.logging import print_log

from .labels import Labels, parse_labels
from .reading import VOLUME_SUFFIXES, volume_suffix

IMAGE_FOLDERS = ('imagesTr', 'images', 'imgs', 'img_dir')
LABEL_FOLDERS = ('labelsTr', 'labels', 'masks', 'annotations', 'ann_dir')


@dataclass(frozen=True)
class Case:
    """One patient, one scan: a file a channel and perhaps a label map.

    Attributes:
        name: Such as ``'hippocampus_001'``.
        images: Files of the channels, or one file with all of them.
        labels: The label file, or ``None``.
    """

    name: str
    images: tuple[str, ...]
    labels: str | None = None


@dataclass(frozen=True)
class RawDataset:
    """A dataset as its author wrote it.

    Attributes:
        name: Such as ``'Dataset004_Hippocampus'``.
        root: Its folder.
        channel_names: One a channel; ``'CT'`` and others choose the
            normalisation.
        labels: Classes and values.
        file_ending: Of all volumes, such as ``'.nii.gz'``.
        training: The annotated cases, sorted by name.
        testing: The others, perhaps annotated too.
        use_mask_for_norm: Whether dataset.json asks to normalise within the
            non-zero voxels only.
    """

    name: str
    root: Path
    channel_names: tuple[str, ...]
    labels: Labels
    file_ending: str
    training: tuple[Case, ...]
    testing: tuple[Case, ...] = ()
    use_mask_for_norm: bool = False


def nnunet_folder(kind: str, folder: str | Path | None = None) -> Path | None:
    """Return one of nnU-Net's three folders.

    Args:
        kind: ``'raw'``, ``'preprocessed'`` or ``'results'``.
        folder: A folder that is given already wins over the environment
            variable ``nnUNet_raw``, ``nnUNet_preprocessed``,
            ``nnUNet_results``.

    Returns:
        The folder, or ``None`` where neither is given.
    """
    folder = folder or os.environ.get(f'nnUNet_{kind}')
    return Path(folder).expanduser() if folder else None


def find_dataset(
    dataset: int | str | Path, raw: str | Path | None = None
) -> RawDataset:
    """Read a dataset in nnU-Net's raw format.

    Args:
        dataset: Its number (4), name (``'Dataset004_Hippocampus'``) or
            folder.
        raw: The folder of datasets; the environment variable
            ``nnUNet_raw`` if ``None``.

    Raises:
        ValueError: There is no such dataset or more than one, dataset.json
            is no good, or a case lacks a channel or its labels; the message
            names the files.
    """
    root = _find_root(dataset, nnunet_folder('raw', raw))
    path = root / 'dataset.json'
    description = read_json(path)
    channels = _channel_names(description, path)
    ending = description.get('file_ending')
    if ending not in VOLUME_SUFFIXES:
        raise ValueError(
            f'{path}: file_ending must be one of '
            f'{", ".join(VOLUME_SUFFIXES)}, got {ending!r}'
        )
    if 'dataset' in description:
        training = _listed_cases(description['dataset'], root, path)
    else:
        training = _find_cases(root, 'Tr', ending, channels)
    _check_training(training, root, ending)
    testing = _find_cases(root, 'Ts', ending, channels)
    expected = description.get('numTraining', len(training))
    if expected != len(training):
        print_log(
            f'{path}: numTraining is {expected}, but there are '
            f'{len(training)} cases',
            'current',
            logging.WARNING,
        )
    return RawDataset(
        name=root.name,
        root=root,
        channel_names=channels,
        labels=parse_labels(description, str(path)),
        file_ending=ending,
        training=training,
        testing=testing,
        use_mask_for_norm=bool(description.get('use_mask_for_norm')),
    )


def _check_training(training: Sequence[Case], root: Path, ending: str) -> None:
    """Raise unless there are cases, and each has labels."""
    if not training:
        raise ValueError(
            f'{root / "imagesTr"}: no case of the name {{case}}_0000{ending}'
        )
    for case in training:
        if case.labels is None:
            raise ValueError(
                f'{root / "labelsTr" / (case.name + ending)}: missing, the '
                f'labels of {case.images[0]}'
            )


def find_volume_folder(
    root: str | Path,
    classes: Sequence[str] | None = None,
    *,
    channel_names: Sequence[str] | None = None,
    img_dir: str | None = None,
    ann_dir: str | None = None,
) -> RawDataset:
    """Read a folder of volumes without nnU-Net's names.

    It holds a dataset.json of the Medical Segmentation Decathlon, which
    lists the files, or a folder of images and one of labels with equal
    names, suffix aside.

    Args:
        root: The folder.
        classes: Names of labels 0 (background), 1, ...; needed without a
            dataset.json.
        channel_names: One a channel; ``'CT'`` and others choose the
            normalisation. Without a dataset.json one channel, z-score.
        img_dir: The folder of images, instead of one of
            ``IMAGE_FOLDERS``.
        ann_dir: The folder of labels, instead of one of
            ``LABEL_FOLDERS``.

    Raises:
        ValueError: Neither is there, or a volume has no partner; the
            message names it.
    """
    root = Path(root)
    path = root / 'dataset.json'
    description = read_json(path) if path.is_file() else {}
    if classes is not None:
        description['labels'] = {name: i for i, name in enumerate(classes)}
    elif 'labels' not in description:
        raise ValueError(
            f'{root}: needs classes=["background", ...], or a dataset.json '
            'with labels'
        )
    if channel_names is None:
        channel_names = ('image',)
        if 'modality' in description or 'channel_names' in description:
            channel_names = _channel_names(description, path)
    if 'training' in description:
        training, testing = _decathlon_cases(description, root, path)
    else:
        training, testing = _paired_cases(root, img_dir, ann_dir), ()
    return RawDataset(
        name=root.resolve().name,
        root=root,
        channel_names=tuple(channel_names),
        labels=parse_labels(description, str(path)),
        file_ending=volume_suffix(training[0].images[0]),
        training=training,
        testing=testing,
        use_mask_for_norm=bool(description.get('use_mask_for_norm')),
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of one JSON object.

    Raises:
        ValueError: It is missing or something else; the message names it.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f'{path}: unreadable: {type(error).__name__}: {error}'
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f'{path}: must hold an object, {{...}}')
    return content


def _find_root(dataset: int | str | Path, raw: Path | None) -> Path:
    if (Path(str(dataset)) / 'dataset.json').is_file():
        return Path(dataset).resolve()
    if raw is None:
        raise ValueError(
            f'dataset {dataset!r} is no folder with a dataset.json; set the '
            'environment variable nnUNet_raw to the folder of datasets'
        )
    if str(dataset).isdigit():
        names = f'Dataset{int(dataset):03d}_*'
        found = [path for path in sorted(raw.glob(names)) if path.is_dir()]
    else:
        names = str(dataset)
        found = [raw / names] if (raw / names).is_dir() else []
    if len(found) != 1:
        there = sorted(path.name for path in raw.glob('Dataset*'))
        raise ValueError(
            f'{raw}: {len(found) or "no"} folders for dataset {dataset!r} '
            f'(looked for {names}), there are '
            f'{", ".join(there) or "no datasets"}'
        )
    return found[0].resolve()


def _channel_names(
    description: Mapping[str, Any], path: Path
) -> tuple[str, ...]:
    given = description.get('channel_names', description.get('modality'))
    names = given if isinstance(given, Mapping) else {}
    if not names or sorted(names) != sorted(map(str, range(len(names)))):
        raise ValueError(
            f'{path}: needs channel_names, such as {{"0": "CT"}}, with the '
            f'keys "0", "1", ...; got {given!r}'
        )
    return tuple(str(names[str(i)]) for i in range(len(names)))


def _find_cases(
    root: Path, part: str, ending: str, channels: Sequence[str]
) -> tuple[Case, ...]:
    """Return the cases of imagesTr or imagesTs, each with all channels."""
    pattern = re.compile(rf'([^.].*)(_\d{{4}}{re.escape(ending)})')
    folder, label_folder = root / f'images{part}', root / f'labels{part}'
    found: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match:
            found.setdefault(match[1], []).append(match[2])
    labelled = {
        path.name.removesuffix(ending)
        for path in label_folder.glob(f'[!.]*{ending}')
    }
    lonely = sorted(labelled - found.keys())
    if lonely:
        raise ValueError(
            f'{label_folder / (lonely[0] + ending)}: {len(lonely)} label '
            f'files without an image {lonely[0]}_0000{ending} in {folder}'
        )
    ends = [f'_{i:04d}{ending}' for i in range(len(channels))]
    cases = []
    for name, there in sorted(found.items()):
        if there != ends:
            raise ValueError(
                f'{folder}: case {name} needs a file for each of '
                f'{len(channels)} channels ({", ".join(channels)}), '
                f'{name}{ends[0]} to {ends[-1]}; there are {there}'
            )
        images = tuple(str(folder / f'{name}{end}') for end in ends)
        labels = label_folder / f'{name}{ending}'
        cases.append(
            Case(name, images, str(labels) if name in labelled else None)
        )
    return tuple(cases)


def _listed_cases(
    listed: Mapping[str, Any], root: Path, path: Path
) -> tuple[Case, ...]:
    """Return the cases that a dataset.json lists with their files."""
    try:
        return tuple(
            Case(
                name,
                tuple(
                    str(root / os.path.expandvars(image))
                    for image in listed[name]['images']
                ),
                str(root / os.path.expandvars(listed[name]['label'])),
            )
            for name in sorted(listed)
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: dataset must be {{case: {{"images": [file, ...], '
            f'"label": file}}}}: {type(error).__name__}: {error}'
        ) from error


def _decathlon_cases(
    description: Mapping[str, Any], root: Path, path: Path
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    def case(image: str, labels: str | None = None) -> Case:
        image = root / image
        name = image.name.removesuffix(volume_suffix(image))
        return Case(name, (str(image),), labels and str(root / labels))

    try:
        training = [
            case(pair['image'], pair['label'])
            for pair in description['training']
        ]
        testing = [case(image) for image in description.get('test', ())]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: training must be a list of {{"image": file, "label": '
            f'file}}: {type(error).__name__}: {error}'
        ) from error
    if not training:
        raise ValueError(f'{path}: training lists no case')
    return _sorted(training, path), _sorted(testing, path)


def _paired_cases(
    root: Path, img_dir: str | None, ann_dir: str | None
) -> tuple[Case, ...]:
    images = _volumes_in(root, img_dir, IMAGE_FOLDERS)
    labels = _volumes_in(root, ann_dir, LABEL_FOLDERS)
    lonely = [
        str(here[name])
        for here, there in ((images, labels), (labels, images))
        for name in here
        if name not in there
    ]
    if lonely or not images:
        raise ValueError(
            f'{root}: {len(images)} images and {len(labels)} labels; without '
            f'a partner of the same name: {", ".join(lonely[:4]) or "none"}'
        )
    cases = [
        Case(name, (str(path),), str(labels[name]))
        for name, path in images.items()
    ]
    return _sorted(cases, root)


def _volumes_in(
    root: Path, given: str | None, names: Sequence[str]
) -> dict[str, Path]:
    for folder in [given] if given else names:
        if (root / folder).is_dir():
            return {
                path.name.removesuffix(volume_suffix(path)): path
                for path in sorted((root / folder).iterdir())
                if path.name.lower().endswith(VOLUME_SUFFIXES)
                and not path.name.startswith('.')
            }
    raise ValueError(
        f'{root}: no folder {given or " or ".join(names)}; name it with '
        'img_dir or ann_dir'
    )


def _sorted(cases: Sequence[Case], path: Path) -> tuple[Case, ...]:
    names = [case.name for case in cases]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f'{path}: {", ".join(twice)} there more than once')
    return tuple(sorted(cases, key=lambda case: case.name))
