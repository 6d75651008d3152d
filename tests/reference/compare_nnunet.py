"""Print how our plans and prepared cases differ from nnU-Net's.

Made-up datasets: several spacings, thick slices along any axis, several
channels, CT, frames of zeros. Needs ``pip install nnunetv2`` (its numbers in
the tests are from 2.8.1). Run:
PYTHONPATH=. python tests/reference/compare_nnunet.py
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).parents[1] / 'datasets' / 'volumes'))

DATASETS = {
    'Dataset001_Isotropic': dict(
        channels=['T1', 'T2'],
        spacings=[(1.2, 1.0, 1.1), (0.9, 1.0, 1.0)],
        shape=(24, 30, 26),
        border=4,
    ),
    'Dataset002_ThickSlices': dict(
        channels=['CT'],
        spacings=[(5, 0.8, 0.8), (4, 1, 1), (6, 0.7, 0.9)],
        shape=(9, 48, 52),
        border=0,
    ),
    'Dataset003_ThickLastAxis': dict(
        channels=['MRI', 'CT'],
        spacings=[(1, 1, 4.5), (0.9, 0.9, 3)],
        shape=(40, 44, 10),
        border=3,
    ),
    'Dataset004_Schemes': dict(
        channels=['MRI', 'rescale_to_0_1', 'noNorm'],
        spacings=[(1.5, 1.0, 1.0), (1.0, 1.1, 1.0)],
        shape=(30, 30, 30),
        border=6,
    ),
}
NUM_CASES = 6


def write_dataset(
    root: Path,
    *,
    channels: Sequence[str],
    spacings: Sequence[Sequence[float]],
    shape: Sequence[int],
    border: int,
) -> None:
    """Write a dataset in nnU-Net's raw format."""
    from conftest import draw_case, save_volume

    for i in range(NUM_CASES):
        size = [s + i * (axis + 1) % 4 for axis, s in enumerate(shape)]
        spacing = spacings[i % len(spacings)]
        image, labels = draw_case(size, 3, border=border, seed=i)
        for c in range(len(channels)):
            path = root / f'imagesTr/case_{i}_{c:04d}.nii.gz'
            save_volume(path, image * (c + 1), spacing)
        save_volume(root / f'labelsTr/case_{i}.nii.gz', labels, spacing)
    description = dict(
        channel_names={str(i): c for i, c in enumerate(channels)},
        labels=dict(background=0, left=1, right=2),
        numTraining=NUM_CASES,
        file_ending='.nii.gz',
    )
    (root / 'dataset.json').write_text(json.dumps(description))


def compare(name: str, folder: Path) -> None:
    """Print one line a configuration: the plans, then the cases."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import (
        DefaultPreprocessor,
    )
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from upernet_ext.datasets.volumes import find_dataset, plan_dataset
    from upernet_ext.datasets.volumes.preprocessing import preprocess_case

    manager = PlansManager(str(folder / name / 'nnUNetPlans.json'))
    dataset = find_dataset(name)
    path = dataset.root / 'dataset.json'
    for configuration in ('3d_fullres', '2d'):
        # Elsewhere there is no plan of nnU-Net's to follow.
        ours = plan_dataset(name, configuration, preprocessed=folder / 'ours')
        plan = plan_dataset(name, configuration)
        image_error, wrong, voxels = 0.0, 0, 0
        for case in dataset.training:
            image, labels, _ = DefaultPreprocessor(verbose=False).run_case(
                list(case.images),
                case.labels,
                manager,
                manager.get_configuration(configuration),
                str(path),
            )[:3]
            prepared = preprocess_case(case, plan)
            error = np.abs(np.asarray(image) - prepared['img']).max()
            image_error = max(image_error, float(error))
            labels = np.maximum(np.asarray(labels)[0], 0)
            wrong += int((labels != prepared['gt_seg_map']).sum())
            voxels += labels.size
        keys = (
            *('patch_size', 'batch_size', 'axes', 'median_shape'),
            *('normalization', 'use_mask_for_norm'),
        )
        differing = [k for k in keys if getattr(ours, k) != getattr(plan, k)]
        spacing = np.abs(np.subtract(ours.spacing, plan.spacing)).max()
        print(
            f'{name} {configuration}: patch {ours.patch_size}, batch '
            f'{ours.batch_size}; plans differ in {differing or "nothing"}, '
            f'spacing by {spacing:.0e} mm; images differ by {image_error:g}, '
            f'{wrong} of {voxels} voxels have another label'
        )


def main() -> None:
    """Write, plan and prepare every dataset, both ways."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = {
            kind: Path(temporary) / kind
            for kind in ('raw', 'preprocessed', 'results')
        }
        for kind, folder in folders.items():
            os.environ[f'nnUNet_{kind}'] = str(folder)
        from nnunetv2.experiment_planning import plan_and_preprocess_api as api

        for name, options in DATASETS.items():
            write_dataset(folders['raw'] / name, **options)
            number = int(name[7:10])
            api.extract_fingerprint_dataset(number, num_processes=1)
            api.plan_experiment_dataset(number)
            compare(name, folders['preprocessed'])


if __name__ == '__main__':
    main()
