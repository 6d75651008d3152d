"""Plans; the numbers are nnU-Net 2.8.1's unless said otherwise.

``tests/reference/compare_nnunet.py`` prints them.
"""

import json
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import pytest

from upernet_ext.datasets.volumes import (
    Plan,
    find_dataset,
    find_volume_folder,
    plan_dataset,
    preprocessed_folder,
)
from upernet_ext.datasets.volumes.cropping import nonzero_box
from upernet_ext.datasets.volumes.fingerprint import (
    Fingerprint,
    take_fingerprint,
)
from upernet_ext.datasets.volumes.patch_size import (
    choose_batch,
    choose_patch,
    count_poolings,
)
from upernet_ext.datasets.volumes.planning import target_spacing

from .conftest import Make, draw_case, save_volume


@pytest.mark.parametrize(
    ('spacing', 'median', 'patch'),
    [
        # Hippocampus, both configurations.
        ((1, 1, 1), (36, 50, 35), (40, 56, 40)),
        ((1, 1), (50, 35), (56, 40)),
        # Published for BraTS and ACDC.
        ((1, 1, 1), (138, 170, 138), (128, 128, 128)),
        ((5, 1.56, 1.56), (18, 237, 208), (20, 256, 224)),
        # A CT slice.
        ((0.77, 0.77), (512, 512), (512, 512)),
    ],
)
def test_patches_are_those_of_nnunet(
    spacing: tuple, median: tuple, patch: tuple
) -> None:
    assert choose_patch(spacing, median) == patch


@pytest.mark.parametrize(
    ('patch', 'dataset_voxels', 'batch'),
    [
        ((40, 56, 40), 36 * 50 * 35 * 260, 9),
        ((56, 40), 36 * 50 * 35 * 260, 366),
        ((128, 128, 128), 1e12, 2),
        ((20, 256, 224), 1e12, 4),
        ((512, 512), 1e12, 12),
        ((512, 512), 1, 2),
    ],
)
def test_batches_are_those_of_nnunet(
    patch: tuple, dataset_voxels: float, batch: int
) -> None:
    assert choose_batch(patch, dataset_voxels) == batch


@pytest.mark.parametrize('budget', [2 * 24**3, 2 * 64**3, None])
@pytest.mark.parametrize(
    ('spacing', 'median'),
    [((1, 1, 1), (482, 512, 400)), ((6, 0.7, 0.7), (30.5, 512, 512))],
)
def test_patches_fit_memory_and_strides(
    spacing: tuple, median: tuple, budget: int | None
) -> None:
    patch = choose_patch(spacing, median, batch_voxels=budget)
    limit = (budget or 2 * 128**3) / 2
    # As large as it may be: one more step along any axis is too much.
    assert 0.5 * limit < prod(patch) <= limit
    poolings = count_poolings(patch, spacing)
    assert max(poolings) <= 5
    for size, n in zip(patch, poolings, strict=True):
        assert size % 2**n == 0


def test_coarse_axes_are_halved_later() -> None:
    assert count_poolings((20, 256, 224), (5, 1.56, 1.56)) == (2, 5, 5)
    assert count_poolings((14, 56, 56), (4, 0.8, 0.9)) == (1, 3, 3)
    assert count_poolings((16, 128, 128), (20, 1, 1)) == (1, 5, 5)
    assert count_poolings((64, 64, 64), (1, 3, 1)) == (4, 3, 4)
    assert count_poolings((1024, 8), (1, 1)) == (5, 1)
    assert count_poolings((11, 7), (1, 1)) == (0, 0)
    assert count_poolings((12, 7), (1, 1)) == (1, 0)


@pytest.mark.parametrize(
    ('spacings', 'shape', 'target'),
    [
        # The median.
        ([(1, 2, 3), (1, 1, 1), (2, 1.5, 2)], (40, 40, 40), (1, 1.5, 2)),
        # A coarse axis of few voxels: its 10th percentile.
        (
            [(z, 1, 1) for z in (4, 5, 6, 7, 8)],
            (10, 99, 99),
            (np.percentile([4, 5, 6, 7, 8], 10), 1, 1),
        ),
        # Coarse, but of many voxels.
        ([(z, 1, 1) for z in (4, 5, 6)], (60, 99, 99), (5, 1, 1)),
        # Never finer than the others.
        (
            [(0.5, 1, 1), *[(5, 1, 1)] * 3, (0.5, 1, 1)],
            (10, 99, 99),
            (1 + 1e-5, 1, 1),
        ),
    ],
)
def test_the_target_spacing(
    spacings: list, shape: tuple, target: tuple
) -> None:
    taken = Fingerprint((shape,) * len(spacings), tuple(spacings), (), 1)
    np.testing.assert_allclose(target_spacing(taken), target, rtol=1e-12)


def test_the_box_of_what_is_not_zero() -> None:
    image = np.zeros((2, 5, 6, 7))
    assert nonzero_box(image) == ((0, 5), (0, 6), (0, 7))
    image[0, 1, 2, 3] = -1
    image[1, 4, 2, 0] = 2
    assert nonzero_box(image) == ((1, 5), (2, 3), (0, 4))


def test_the_fingerprint_is_of_the_foreground(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = []
    for i, size in enumerate((8, 12)):
        labels = rng.integers(0, 3, (size, 6, 6)).astype(np.uint8)
        image = rng.normal(10 * i, 2, labels.shape).astype(np.float32)
        image[0] = 0
        spacing = (i + 1, 1, 0.5)
        save_volume(tmp_path / f'd/images/{i}.nii', image, spacing)
        save_volume(tmp_path / f'd/labels/{i}.nii', labels, spacing)
        values.append(image[1:][labels[1:] > 0])
    dataset = find_volume_folder(tmp_path / 'd', ['background', 'a', 'b'])
    taken = take_fingerprint(dataset, tmp_path)
    assert taken.shapes == ((7, 6, 6), (11, 6, 6))
    assert taken.spacings == ((1, 1, 0.5), (2, 1, 0.5))
    assert taken.relative_size == pytest.approx((7 / 8 + 11 / 12) / 2)
    # Each case counts as much, though one has more foreground.
    means = [v.mean() for v in values]
    statistics = taken.intensities[0]
    assert statistics['mean'] == pytest.approx(np.mean(means), abs=0.02)
    spread = np.mean([v.var() for v in values]) + np.var(means)
    assert statistics['std'] == pytest.approx(spread**0.5, abs=0.02)
    assert statistics['min'] == min(v.min() for v in values)
    assert statistics['max'] == max(v.max() for v in values)
    low, high = statistics['percentile_00_5'], statistics['percentile_99_5']
    share = np.mean([(v < low).mean() for v in values])
    assert share == pytest.approx(0.005, abs=0.005)
    share = np.mean([(v > high).mean() for v in values])
    assert share == pytest.approx(0.005, abs=0.005)
    # Taken once: it is read again, and anew when a file changes.
    (path,) = tmp_path.glob('upernet_fingerprint_*/fingerprint.json')
    before = path.stat().st_mtime_ns
    assert take_fingerprint(dataset, tmp_path) == taken
    assert path.stat().st_mtime_ns == before
    save_volume(tmp_path / 'd/images/1.nii', image[:, :5], (2, 1, 0.5))
    with pytest.raises(ValueError, match=r'1\.nii.*different geometry'):
        take_fingerprint(dataset, tmp_path)


def test_a_plan_of_our_own(make_dataset: Make) -> None:
    make_dataset(
        channels=('MRI', 'CT', 'noNorm'),
        shape=(18, 20, 8),
        spacings=((1, 1, 4.5), (0.8, 0.9, 4)),
        border=1,
        num_cases=6,
        num_tests=1,
    )
    plan = plan_dataset(4, '3d_fullres')
    assert plan.dataset == 'Dataset004_Blobs'
    assert plan.spatial_dims == 3
    assert plan.in_channels == 3
    assert plan.channel_names == ('MRI', 'CT', 'noNorm')
    assert plan.classes == ('background', 'left', 'right')
    assert (plan.num_classes, plan.multi_label) == (3, False)
    # The coarsest axis, here the last of the file, comes first.
    assert plan.axes == (2, 0, 1)
    np.testing.assert_allclose(plan.spacing, (4.25, 0.9, 0.95))
    assert len(plan.patch_size) == 3
    assert plan.normalization == ('zscore', 'ct', 'nonorm')
    # The crop leaves less than three quarters.
    assert plan.use_mask_for_norm == (True, False, False)
    assert plan.source == 'fingerprint'
    assert [len(fold['val']) for fold in plan.folds] == [2, 1, 1, 1, 1]
    flat = plan_dataset('Dataset004_Blobs', '2d')
    assert flat.spatial_dims == 2
    assert flat.spacing == plan.spacing[1:]
    assert flat.patch_size == choose_patch(flat.spacing, plan.median_shape[1:])
    assert flat.axes == plan.axes
    assert flat.folds == plan.folds
    small = plan_dataset(4, '3d_fullres', batch_voxels=512)
    assert prod(small.patch_size) <= 256


def test_whether_to_look_at_non_zero_voxels_only(make_dataset: Make) -> None:
    make_dataset(border=0)
    assert plan_dataset(4).use_mask_for_norm == (False,)
    make_dataset('Dataset005_Blobs', border=0, use_mask_for_norm=True)
    assert plan_dataset(5).use_mask_for_norm == (True,)


def test_a_plan_survives_json(make_dataset: Make) -> None:
    make_dataset(
        labels=dict(background=0, both=[1, 2], right=2, ignore=3),
        regions_class_order=[1, 2],
    )
    plan = plan_dataset(4)
    assert plan.multi_label
    assert plan.classes == ('both', 'right')
    content = plan.to_dict()
    again = Plan.from_dict(json.loads(json.dumps(content)))
    assert again.to_dict() == content
    assert again.labels == plan.labels
    assert again.digest == plan.digest
    assert again.folds == ()
    del content['axes']
    with pytest.raises(ValueError, match='differing: axes'):
        Plan.from_dict(content)


NNUNET_PLANS = dict(
    transpose_forward=[1, 0, 2],
    foreground_intensity_properties_per_channel={
        '0': dict(mean=1.0, std=2.0, percentile_00_5=-3.0, percentile_99_5=4.0)
    },
    configurations={
        '3d_fullres': dict(
            batch_size=5,
            patch_size=[16, 24, 32],
            spacing=[2.0, 1.0, 1.5],
            median_image_size_in_voxels=[15.0, 22.0, 30.0],
            normalization_schemes=['CTNormalization'],
            use_mask_for_norm=[False],
            preprocessor_name='DefaultPreprocessor',
        ),
        'large': dict(inherits_from='3d_fullres', batch_size=50),
        '3d_cascade_fullres': dict(
            inherits_from='3d_fullres', previous_stage='3d_lowres'
        ),
    },
)


def write_plans(root: Path, plans: dict, name: str = 'nnUNetPlans') -> Path:
    path = root.parents[1] / 'preprocessed' / root.name / f'{name}.json'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(plans))
    return path


def test_a_plan_of_nnunet_wins(make_dataset: Make) -> None:
    root = make_dataset()
    path = write_plans(root, NNUNET_PLANS)
    plan = plan_dataset(4)
    assert plan.source == str(path)
    assert plan.axes == (1, 0, 2)
    assert plan.spacing == (2, 1, 1.5)
    assert (plan.patch_size, plan.batch_size) == ((16, 24, 32), 5)
    assert plan.normalization == ('ct',)
    assert plan.intensities[0]['percentile_00_5'] == -3
    large = plan_dataset(4, 'large')
    assert (large.patch_size, large.batch_size) == ((16, 24, 32), 50)
    assert not list(path.parent.glob('upernet_fingerprint_*'))
    with pytest.raises(ValueError, match="no configuration '2d', but 3d_f"):
        plan_dataset(4, '2d')
    with pytest.raises(ValueError, match='continues another model'):
        plan_dataset(4, '3d_cascade_fullres')
    write_plans(root, NNUNET_PLANS, 'mine')
    assert plan_dataset(4, plans='mine').source.endswith('mine.json')
    with pytest.raises(ValueError, match=r'yours\.json: no such plan'):
        plan_dataset(4, plans='yours')


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        ('normalization_schemes', ['Mine'], "unknown norm.*KeyError: 'Mine'"),
        ('spacing', None, 'no plan of nnU-Net v2.*TypeError'),
        (
            'normalization_schemes',
            ['CTNormalization', 'NoNormalization'],
            "KeyError: '1'",
        ),
    ],
)
def test_plans_that_cannot_be_followed(
    make_dataset: Make, key: str, value: object, message: str
) -> None:
    plans = json.loads(json.dumps(NNUNET_PLANS))
    plans['configurations']['3d_fullres'][key] = value
    path = write_plans(make_dataset(), plans)
    with pytest.raises(ValueError, match=message) as error:
        plan_dataset(4)
    assert str(path) in str(error.value)


def test_a_plan_of_another_dataset(make_dataset: Make) -> None:
    write_plans(make_dataset(channels=('T1', 'T2')), NNUNET_PLANS)
    with pytest.raises(ValueError, match=r'has 1 channels.*has 2; it is of'):
        plan_dataset(4)


def test_unknown_resampling_is_said(
    make_dataset: Make, log: Callable[[], str]
) -> None:
    root = make_dataset()
    write_plans(root, NNUNET_PLANS)
    plan_dataset(4)
    assert not log()
    plans = json.loads(json.dumps(NNUNET_PLANS))
    plans['configurations']['3d_fullres']['preprocessor_name'] = 'Torch'
    write_plans(root, plans)
    plan_dataset(4)
    assert "preprocessor_name 'Torch' is not known here" in log()


def test_configurations_that_do_not_fit(make_dataset: Make) -> None:
    make_dataset(shape=(1, 12, 14), spacings=((5, 1, 1),), border=0)
    root = find_dataset(4).root
    for path in root.glob('*/case_*'):
        # Every case has one slice.
        image, labels = draw_case((1, 12, 14), 3, border=0, seed=0)
        array = labels if path.parent.name == 'labelsTr' else image
        save_volume(path, array, (5, 1, 1))
    with pytest.raises(ValueError, match=r"one slice; use conf.*'2d'"):
        plan_dataset(4)
    assert plan_dataset(4, '2d').spacing == (1, 1)
    with pytest.raises(ValueError, match=r"one of.*got '3d_lowres'"):
        plan_dataset(4, '3d_lowres')


def test_all_unusable_files_are_named(make_dataset: Make) -> None:
    root = make_dataset()
    (root / 'imagesTr/case_01_0000.nii.gz').write_bytes(b'')
    save_volume(root / 'labelsTr/case_03.nii.gz', np.zeros((2, 2, 2)))
    with pytest.raises(ValueError, match='unreadable') as error:
        plan_dataset(4)
    first, second = str(error.value).splitlines()
    assert 'case_01_0000.nii.gz: unreadable' in first
    assert 'case_03.nii.gz' in second
    assert 'different geometry' in second


def test_labels_without_foreground(make_dataset: Make) -> None:
    root = make_dataset()
    for i, path in enumerate(sorted((root / 'labelsTr').iterdir())):
        shape = [s + i * (a + 1) % 3 for a, s in enumerate((10, 12, 14))]
        save_volume(path, np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match='no label file has a voxel'):
        plan_dataset(4)


def test_where_results_are_kept(
    make_dataset: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_dataset()
    dataset = find_dataset(4)
    given = preprocessed_folder(dataset, '/fast')
    assert given == Path('/fast/Dataset004_Blobs')
    there = root.parents[1] / 'preprocessed' / root.name
    assert preprocessed_folder(dataset) == there
    monkeypatch.delenv('nnUNet_preprocessed')
    beside = root.parent / 'nnUNet_preprocessed' / root.name
    assert preprocessed_folder(dataset) == beside
