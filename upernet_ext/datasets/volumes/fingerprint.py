"""What a dataset is like: shapes, spacings, intensities of its foreground.

Facts: nnunetv2/experiment_planning/dataset_fingerprint of
https://github.com/MIC-DKFZ/nnUNet.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .cropping import nonzero_box
from .raw import Case, RawDataset, read_json
from .reading import read_image
from .shared_work import complete_or_absent, digest, do_missing, file_facts

# Foreground voxels drawn from all cases together, equally many of each;
# nnU-Net draws a hundred times more.
NUM_SAMPLES = 1_000_000
VERSION = 1


@dataclass(frozen=True)
class Fingerprint:
    """What planning needs to know.

    Attributes:
        shapes: Of each case after the crop to non-zero, ``(z, y, x)``.
        spacings: Of each case, ``(z, y, x)``, mm.
        intensities: Of each channel's foreground: ``mean``, ``std``,
            ``median``, ``min``, ``max``, ``percentile_00_5`` and
            ``percentile_99_5``. Foreground is what has a label above 0.
        relative_size: The median share of voxels that the crop leaves.
    """

    shapes: tuple[tuple[int, ...], ...]
    spacings: tuple[tuple[float, ...], ...]
    intensities: tuple[dict[str, float], ...]
    relative_size: float


def take_fingerprint(
    dataset: RawDataset, folder: Path, *, num_workers: int | None = None
) -> Fingerprint:
    """Measure the training cases, or read what was measured before.

    Args:
        dataset: The dataset.
        folder: Where results are kept, in a folder of their own that the
            training files' names, sizes and times decide.
        num_workers: See ``do_missing``.

    Raises:
        ValueError: Files are unusable, or nothing has a foreground.
    """
    facts = [VERSION, asdict(dataset.labels), NUM_SAMPLES]
    for case in dataset.training:
        facts.append(file_facts((*case.images, case.labels)))
    folder = folder / f'upernet_fingerprint_{digest(facts)}'
    path = folder / 'fingerprint.json'
    if path.is_file():
        return _from_json(read_json(path))
    parts = _measure_cases(dataset, folder, num_workers)
    samples = np.concatenate([part['samples'] for part in parts], axis=1)
    if not samples.size:
        raise ValueError(
            f'{dataset.root}: no label file has a voxel of a class'
        )
    fingerprint = Fingerprint(
        shapes=tuple(tuple(part['shape'].tolist()) for part in parts),
        spacings=tuple(tuple(part['spacing'].tolist()) for part in parts),
        intensities=tuple(_statistics(channel) for channel in samples),
        relative_size=float(np.median([p['relative_size'] for p in parts])),
    )
    with complete_or_absent(path) as partial:
        partial.write_text(json.dumps(asdict(fingerprint), indent=1))
    return fingerprint


def _measure_cases(
    dataset: RawDataset, folder: Path, num_workers: int | None
) -> list[dict[str, np.ndarray]]:
    """Measure each training case whose file in ``folder`` is not there."""

    def measured(case: Case) -> Path:
        return folder / f'{case.name}.npz'

    def work(case: Case) -> None:
        facts = _measure(case, dataset)
        with complete_or_absent(measured(case)) as partial:
            np.savez(partial, **facts)

    do_missing(
        dataset.training,
        work,
        is_done=lambda case: measured(case).is_file(),
        description=f'Fingerprint of {dataset.name}',
        num_workers=num_workers,
    )
    return [dict(np.load(measured(case))) for case in dataset.training]


def _measure(case: Case, dataset: RawDataset) -> dict[str, Any]:
    """Measure one case; ``samples`` are ``(C, n)`` foreground values."""
    volume = read_image(case.images, len(dataset.channel_names))
    labels = dataset.labels.read(case.labels, like=volume)
    box = nonzero_box(volume.array)
    window = tuple(slice(*ends) for ends in box)
    shape = labels[window].shape
    values = volume.array[:, *window][:, labels[window] > 0]
    if values.size:
        count = -(-NUM_SAMPLES // len(dataset.training))
        # With replacement, so that cases of little foreground count as much.
        chosen = np.random.default_rng(0).integers(values.shape[1], size=count)
        values = values[:, chosen]
    return dict(
        shape=shape,
        spacing=volume.spacing,
        relative_size=np.prod(shape) / labels.size,
        samples=values,
    )


def _statistics(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, (0.5, 50, 99.5))
    values = values.astype(np.float64)
    return dict(
        mean=float(values.mean()),
        std=float(values.std()),
        median=float(median),
        min=float(values.min()),
        max=float(values.max()),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
    )


def _from_json(content: dict[str, Any]) -> Fingerprint:
    return Fingerprint(
        shapes=tuple(map(tuple, content['shapes'])),
        spacings=tuple(map(tuple, content['spacings'])),
        intensities=tuple(content['intensities']),
        relative_size=content['relative_size'],
    )
