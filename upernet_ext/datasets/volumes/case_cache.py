"""Prepared cases on disk, read by memory mapping.

A case is ``<case>.<hash of its files>`` with the ends ``.img.npy``
``float32`` ``(C, *S)``, ``.seg.npy`` ``uint8`` ``S``, ``.source.npy``
``uint8`` of the file's own grid, ``.locations.npy`` ``int32`` ``(n, 3)`` and
``.json``, which is written last: a case is there when its JSON is. Files are
never changed; another plan has another folder.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .plan import Plan
from .preprocessing import preprocess_case, sample_locations
from .raw import Case
from .shared_work import complete_or_absent, digest, do_missing, file_facts

GEOMETRY = (
    'img_shape',
    'spacing',
    'ori_shape',
    'ori_spacing',
    'axes',
    'crop_box',
)


def cache_cases(
    cases: Sequence[Case],
    plan: Plan,
    folder: Path,
    *,
    num_workers: int | None = None,
) -> list[str]:
    """Prepare the cases that are not there yet.

    Args:
        cases: The cases.
        plan: How.
        folder: The dataset's folder of preprocessed data.
        num_workers: See ``do_missing``.

    Returns:
        What ``read_case`` needs, one a case.

    Raises:
        ValueError: Files are unusable; the message has a line for each.
    """
    folder = folder / f'{plan.configuration}_upernet_{plan.digest}'
    stems = {
        case: folder
        / f'{case.name}.{digest(file_facts((*case.images, case.labels)))}'
        for case in cases
    }
    do_missing(
        cases,
        lambda case: _write_case(case, plan, stems[case]),
        is_done=lambda case: _file(stems[case], 'json').is_file(),
        description=f'Preparing {plan.dataset}, {plan.configuration}',
        num_workers=num_workers,
    )
    return [str(stems[case]) for case in cases]


def read_case(stem: str) -> dict[str, Any]:
    """Open a prepared case.

    Returns:
        ``img`` and the geometry (see ``preprocess_image``); with labels also
        ``gt_seg_map``, ``source_seg_map`` (of the file's own grid) and
        ``foreground`` (see ``sample_locations``). Arrays are mapped: they
        are read where they are used, and writing to them changes no file.
    """
    stem = Path(stem)
    content = json.loads(_file(stem, 'json').read_text())
    case = {key: _to_tuples(content[key]) for key in GEOMETRY}
    case['img'] = _map(stem, 'img.npy')
    if 'locations' in content:
        case['gt_seg_map'] = _map(stem, 'seg.npy')
        case['source_seg_map'] = _map(stem, 'source.npy')
        locations = _map(stem, 'locations.npy')
        case['foreground'] = {
            int(k): locations[slice(*ends)]
            for k, ends in content['locations'].items()
        }
    return case


def _write_case(case: Case, plan: Plan, stem: Path) -> None:
    prepared = preprocess_case(case, plan)
    content = {key: prepared[key] for key in GEOMETRY}
    content['files'] = [*case.images, case.labels]
    _save(stem, 'img.npy', prepared['img'])
    if case.labels is not None:
        labels = prepared['gt_seg_map']
        locations = sample_locations(labels, plan)
        ends = np.cumsum([0, *map(len, locations.values())]).tolist()
        content['locations'] = {
            k: ends[i : i + 2] for i, k in enumerate(locations)
        }
        found = [np.zeros((0, labels.ndim), np.int32), *locations.values()]
        _save(stem, 'locations.npy', np.concatenate(found))
        _save(stem, 'seg.npy', labels)
        _save(stem, 'source.npy', prepared['source_seg_map'])
    with complete_or_absent(_file(stem, 'json')) as partial:
        partial.write_text(json.dumps(content))


def _file(stem: Path, end: str) -> Path:
    return stem.with_name(f'{stem.name}.{end}')


def _save(stem: Path, end: str, array: np.ndarray) -> None:
    with complete_or_absent(_file(stem, end)) as partial:
        np.save(partial, np.ascontiguousarray(array))


def _map(stem: Path, end: str) -> np.ndarray:
    return np.load(_file(stem, end), mmap_mode='c')


def _to_tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_to_tuples(item) for item in value)
    return value
