"""Plan a dataset: from nnU-Net's plan where there is one, else our own.

The rules of our own are those of nnU-Net's default planner
(nnunetv2/experiment_planning/experiment_planners of
https://github.com/MIC-DKFZ/nnUNet), but for the memory of the patch; see
``patch_size``.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log

from .fingerprint import Fingerprint, take_fingerprint
from .normalization import SCHEMES, scheme_of
from .patch_size import choose_batch, choose_patch
from .plan import Plan
from .raw import RawDataset, find_dataset, nnunet_folder, read_json
from .resampling import ANISOTROPY, resampled_shape
from .splits import find_splits

CONFIGURATIONS = ('3d_fullres', '2d')
DEFAULT_PLANS = 'nnUNetPlans'
# Below this share of voxels left by the crop, z-score looks at these only.
MASK_BELOW = 0.75
# What of a nnUNetPlans.json preprocessing follows.
RESAMPLING = {
    'resampling_fn_data': 'resample_data_or_seg_to_shape',
    'resampling_fn_seg': 'resample_data_or_seg_to_shape',
    'preprocessor_name': 'DefaultPreprocessor',
}


def plan_dataset(
    dataset: int | str | Path | RawDataset,
    configuration: str = '3d_fullres',
    *,
    raw: str | Path | None = None,
    preprocessed: str | Path | None = None,
    plans: str = DEFAULT_PLANS,
    batch_voxels: int | None = None,
    num_workers: int | None = None,
) -> Plan:
    """Find out how a dataset is to be prepared.

    A nnUNetPlans.json in the dataset's preprocessed folder wins; without
    one the training cases are measured, once. So do a splits_final.json
    there or beside the dataset.json.

    Args:
        dataset: Number, name or folder; see ``find_dataset``.
        configuration: ``'3d_fullres'``, ``'2d'``, or another one of the
            nnUNetPlans.json.
        raw: The folder of datasets instead of ``nnUNet_raw``.
        preprocessed: The folder for results instead of
            ``nnUNet_preprocessed``; see ``preprocessed_folder``.
        plans: The name of the plans file, without ``.json``.
        batch_voxels: The memory budget of our own plan; see
            ``choose_patch``.
        num_workers: Threads that measure; see ``do_missing``.

    Raises:
        ValueError: The dataset, the plan or the configuration is not there
            or not usable.
    """
    if not isinstance(dataset, RawDataset):
        dataset = find_dataset(dataset, raw)
    folder = preprocessed_folder(dataset, preprocessed)
    path = folder / f'{plans}.json'
    if path.is_file():
        facts = _from_nnunet(path, configuration, dataset)
    elif plans != DEFAULT_PLANS:
        raise ValueError(f'{path}: no such plan')
    elif configuration not in CONFIGURATIONS:
        raise ValueError(
            f'configuration must be one of {CONFIGURATIONS}, got '
            f'{configuration!r}; others need a {path}'
        )
    else:
        fingerprint = take_fingerprint(
            dataset, folder, num_workers=num_workers
        )
        facts = _from_fingerprint(
            fingerprint, configuration, dataset, batch_voxels
        )
    names = [case.name for case in dataset.training]
    return Plan(
        dataset=dataset.name,
        configuration=configuration,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        file_ending=dataset.file_ending,
        folds=find_splits((folder, dataset.root), names),
        **facts,
    )


def preprocessed_folder(
    dataset: RawDataset, folder: str | Path | None = None
) -> Path:
    """Return where a dataset's results are kept.

    That is a folder of its name under ``folder``, under the environment
    variable ``nnUNet_preprocessed``, or under ``nnUNet_preprocessed`` beside
    the dataset.
    """
    beside = dataset.root.resolve().parent / 'nnUNet_preprocessed'
    return (nnunet_folder('preprocessed', folder) or beside) / dataset.name


def target_spacing(fingerprint: Fingerprint) -> np.ndarray:
    """Return the spacing to resample to, of the source's axes, in mm.

    The median; where one axis is more than three times coarser than the
    others, and has less than a third of their voxels, its 10th percentile,
    but no finer than the others.
    """
    spacings = np.array(fingerprint.spacings)
    target = np.median(spacings, axis=0)
    sizes = np.median(np.array(fingerprint.shapes), axis=0)
    coarse = int(np.argmax(target))
    others = np.delete(target, coarse)
    if (
        target[coarse] > ANISOTROPY * others.max()
        and sizes[coarse] * ANISOTROPY < np.delete(sizes, coarse).min()
    ):
        finest = np.percentile(spacings[:, coarse], 10)
        # nnU-Net adds 1e-5 mm to an axis that would become finer.
        target[coarse] = max(
            finest, others.max() + 1e-5 * (finest < others.max())
        )
    return target


def _from_fingerprint(
    fingerprint: Fingerprint,
    configuration: str,
    dataset: RawDataset,
    batch_voxels: int | None,
) -> dict[str, Any]:
    target = target_spacing(fingerprint)
    coarse = int(np.argmax(target))
    axes = (coarse, *(a for a in range(3) if a != coarse))
    shapes = [
        resampled_shape(shape, spacing, target)
        for shape, spacing in zip(
            fingerprint.shapes, fingerprint.spacings, strict=True
        )
    ]
    spacing = [float(target[axis]) for axis in axes]
    median = np.median(shapes, axis=0)[list(axes)]
    dataset_voxels = float(np.prod(median)) * len(shapes)
    if configuration == '2d':
        spacing, median = spacing[1:], median[1:]
    elif median[0] == 1:
        raise ValueError(
            f'{dataset.root}: the volumes have one slice; use '
            "configuration='2d'"
        )
    patch = choose_patch(spacing, median.tolist(), batch_voxels=batch_voxels)
    use_mask = (
        fingerprint.relative_size < MASK_BELOW or dataset.use_mask_for_norm
    )
    schemes = tuple(scheme_of(name) for name in dataset.channel_names)
    return dict(
        axes=axes,
        spacing=tuple(spacing),
        patch_size=patch,
        batch_size=choose_batch(
            patch, dataset_voxels, batch_voxels=batch_voxels
        ),
        median_shape=tuple(median.tolist()),
        normalization=schemes,
        use_mask_for_norm=tuple(use_mask and s == 'zscore' for s in schemes),
        intensities=fingerprint.intensities,
        source='fingerprint',
    )


def _from_nnunet(
    path: Path, configuration: str, dataset: RawDataset
) -> dict[str, Any]:
    content = read_json(path)
    try:
        plan = _inherited(content['configurations'], configuration, path)
        names = {name: scheme for scheme, name in SCHEMES.items()}
        channels = range(len(plan['normalization_schemes']))
        statistics = content['foreground_intensity_properties_per_channel']
        facts = dict(
            axes=tuple(content['transpose_forward']),
            spacing=tuple(map(float, plan['spacing'])),
            patch_size=tuple(map(int, plan['patch_size'])),
            batch_size=int(plan['batch_size']),
            median_shape=tuple(plan['median_image_size_in_voxels']),
            normalization=tuple(
                names[scheme] for scheme in plan['normalization_schemes']
            ),
            use_mask_for_norm=tuple(plan['use_mask_for_norm']),
            intensities=tuple(statistics[str(i)] for i in channels),
            source=str(path),
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{path}: no plan of nnU-Net v2, or of an unknown normalisation: '
            f'{type(error).__name__}: {error}'
        ) from error
    if len(channels) != len(dataset.channel_names):
        raise ValueError(
            f'{path} has {len(channels)} channels, {dataset.root} has '
            f'{len(dataset.channel_names)}; it is of another dataset'
        )
    for key, ours in RESAMPLING.items():
        if plan.get(key, ours) != ours:
            print_log(
                f'{path}: {key} {plan[key]!r} is not known here; cases are '
                f'prepared as by {ours!r}',
                'current',
                logging.WARNING,
            )
    return facts


def _inherited(
    configurations: Mapping[str, Any], name: str, path: Path
) -> dict[str, Any]:
    """Return a configuration with what it takes over from others."""
    if name not in configurations:
        raise ValueError(
            f'{path} has no configuration {name!r}, but '
            f'{", ".join(configurations)}'
        )
    plan = configurations[name]
    if plan.get('previous_stage'):
        raise ValueError(
            f'{path}: {name} continues another model, which is not '
            'supported; use 3d_fullres'
        )
    if 'inherits_from' in plan:
        parent = _inherited(configurations, plan['inherits_from'], path)
        return {**parent, **plan}
    return plan
