"""Preparing cases, once, by however many processes."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from upernet_ext.datasets.volumes import (
    Plan,
    cache_cases,
    case_cache,
    find_dataset,
    plan_dataset,
    preprocess_image,
    read_case,
    read_volume,
    shared_work,
)
from upernet_ext.datasets.volumes.preprocessing import (
    preprocess_case,
    sample_locations,
)
from upernet_ext.datasets.volumes.resampling import (
    resample_image,
    resample_labels,
)
from upernet_ext.datasets.volumes.shared_work import (
    complete_or_absent,
    do_missing,
)

from .conftest import Make

ANISOTROPIC = dict(
    channels=('MRI', 'CT'),
    shape=(18, 20, 7),
    spacings=((1, 1, 4.5), (0.8, 0.9, 4)),
    border=1,
)


def test_nnunets_order_is_kept(make_dataset: Make) -> None:
    make_dataset(**ANISOTROPIC)
    plan, dataset = plan_dataset(4), find_dataset(4)
    case = dataset.training[1]
    prepared = preprocess_case(case, plan)
    # Step by step: transpose, crop, normalise, resample.
    raw = np.stack([read_volume(p).array for p in case.images])
    assert plan.axes == (2, 0, 1)
    image = raw.transpose(0, 3, 1, 2)
    box = tuple((1, size - 1) for size in image.shape[1:])
    assert prepared['crop_box'] == box
    image = image[:, 1:-1, 1:-1, 1:-1]
    assert image.all()
    z_score = (image[0] - image[0].mean()) / image[0].std()
    ct = plan.intensities[1]
    low, high = ct['percentile_00_5'], ct['percentile_99_5']
    scaled = (image[1].clip(low, high) - ct['mean']) / ct['std']
    spacing = (4, 0.8, 0.9)
    shape = tuple(
        round(size * old / new)
        for size, old, new in zip(
            image.shape[1:], spacing, plan.spacing, strict=True
        )
    )
    assert shape != image.shape[1:]
    geometry = dict(spacing=spacing, new_spacing=plan.spacing)
    expected = resample_image(np.stack([z_score, scaled]), shape, **geometry)
    assert prepared['img'].dtype == np.float32
    np.testing.assert_allclose(prepared['img'], expected, atol=2e-5)
    truth = read_volume(case.labels).array
    labels = truth.transpose(2, 0, 1)[1:-1, 1:-1, 1:-1]
    np.testing.assert_array_equal(
        prepared['gt_seg_map'], resample_labels(labels, shape, **geometry)
    )
    np.testing.assert_array_equal(prepared['source_seg_map'], truth)
    assert prepared['img_shape'] == shape == prepared['img'].shape[1:]
    assert prepared['ori_shape'] == truth.shape
    assert prepared['ori_spacing'] == (0.8, 0.9, 4)
    assert prepared['axes'] == (2, 0, 1)
    # The same space in other voxels.
    np.testing.assert_allclose(
        np.multiply(prepared['spacing'], shape),
        np.multiply(spacing, image.shape[1:]),
    )


def test_in_2d_slices_stay_as_thick_as_they_are(make_dataset: Make) -> None:
    make_dataset(**ANISOTROPIC)
    plan = plan_dataset(4, '2d')
    for case in find_dataset(4).training[:2]:
        prepared = preprocess_case(case, plan)
        (start, stop), *_ = prepared['crop_box']
        assert prepared['img_shape'][0] == stop - start
        assert prepared['spacing'][0] == prepared['ori_spacing'][2]
        np.testing.assert_allclose(
            prepared['spacing'][1:], plan.spacing, rtol=0.05
        )


def test_a_new_image_is_prepared_alike(
    make_dataset: Make, tmp_path: Path
) -> None:
    make_dataset(**ANISOTROPIC)
    plan, case = plan_dataset(4), find_dataset(4).training[1]
    expected = preprocess_case(case, plan)
    paths = []
    for c, path in enumerate(case.images):
        paths.append(tmp_path / f'new{c}.nii.gz')
        paths[-1].write_bytes(Path(path).read_bytes())
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    prepared = preprocess_image(paths, again)
    np.testing.assert_array_equal(prepared['img'], expected['img'])
    assert prepared['case'] == 'new0'
    assert prepared['img_paths'] == tuple(map(str, paths))
    for key in ('crop_box', 'axes', 'spacing', 'ori_shape', 'ori_spacing'):
        assert prepared[key] == expected[key]
    assert 'gt_seg_map' not in prepared
    with pytest.raises(ValueError, match=r'new0\.nii\.gz: 1 channel'):
        preprocess_image(paths[0], again)


def test_labels_do_not_change_the_image(make_dataset: Make) -> None:
    # nnU-Net's mask takes labels outside of the non-zero voxels in, which a
    # new image has not.
    make_dataset(border=3)
    plan, case = plan_dataset(4), find_dataset(4).training[0]
    assert plan.use_mask_for_norm == (True,)
    alone = preprocess_case(replace(case, labels=None), plan)
    both = preprocess_case(case, plan)
    np.testing.assert_array_equal(alone['img'], both['img'])


def test_locations_are_of_their_class(make_dataset: Make) -> None:
    make_dataset()
    plan = plan_dataset(4)
    labels = np.zeros((40, 50, 60), np.uint8)
    labels[:, 20:] = 1
    labels[3, 4, 5:8] = 2
    labels[0] = 255
    found = sample_locations(labels, plan)
    assert set(found) == {1, 2}
    assert sorted(map(tuple, found[2].tolist())) == [
        (3, 4, 5),
        (3, 4, 6),
        (3, 4, 7),
    ]
    assert found[1].shape == (10_000, 3)
    assert found[1].dtype == np.int32
    assert len(np.unique(found[1], axis=0)) == 10_000
    assert (labels[tuple(found[1].T)] == 1).all()
    # Spread over the whole class.
    assert set(found[1][:, 0]) == set(range(1, 40))
    labels[:] = 0
    assert sample_locations(labels, plan) == {}
    assert len(sample_locations(np.ones((200,) * 3, 'u1'), plan)[1]) == 80_000


def test_locations_of_regions_and_annotated_voxels(
    make_dataset: Make,
) -> None:
    make_dataset(
        labels=dict(background=0, both=[1, 2], right=2, ignore=3),
        regions_class_order=[1, 2],
    )
    plan = plan_dataset(4)
    labels = np.array([[[0, 1, 2, 255]]], np.uint8)
    found = sample_locations(labels, plan)
    columns = {k: sorted(v[:, 2].tolist()) for k, v in found.items()}
    assert columns == {0: [1, 2], 1: [2], -1: [0, 1, 2]}


def test_the_cache_gives_what_was_prepared(
    make_dataset: Make, tmp_path: Path
) -> None:
    make_dataset(**ANISOTROPIC, num_tests=1)
    plan, dataset = plan_dataset(4), find_dataset(4)
    cases = (*dataset.training, *dataset.testing)
    stems = cache_cases(cases, plan, tmp_path / 'cache')
    for case, stem in zip(cases, stems, strict=True):
        cached, expected = read_case(stem), preprocess_case(case, plan)
        for key, value in cached.items():
            if key == 'foreground':
                found = sample_locations(expected['gt_seg_map'], plan)
                assert set(value) == set(found) == {1, 2}
                for k in found:
                    np.testing.assert_array_equal(value[k], found[k])
            elif isinstance(value, np.ndarray):
                assert isinstance(value, np.memmap)
                np.testing.assert_array_equal(value, expected[key])
                assert value.dtype == expected[key].dtype
            else:
                assert value == expected[key]
        with_labels = {'gt_seg_map', 'source_seg_map', 'foreground'}
        there = with_labels if case.labels else set()
        assert with_labels & set(cached) == there


def content(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in folder.rglob('*')
        if path.is_file()
    }


def test_nothing_is_done_twice_or_changed(
    make_dataset: Make, tmp_path: Path
) -> None:
    root = make_dataset(channels=('MRI',))
    raw = content(root)
    plan, dataset = plan_dataset(4), find_dataset(4)
    cache = tmp_path / 'cache'
    stems = cache_cases(dataset.training[:2], plan, cache)
    first = content(cache)
    # Another fold: what is there stays.
    assert cache_cases(dataset.training, plan, cache)[:2] == stems
    second = content(cache)
    assert first.items() < second.items()
    # Writing to what was read changes no file.
    case = read_case(stems[0])
    case['img'][:] = 7
    assert not (read_case(stems[0])['img'] == 7).any()
    # Another plan has another folder, but not for what does not matter.
    same = replace(plan, batch_size=99, patch_size=(8, 8, 8), folds=())
    assert cache_cases(dataset.training[:2], same, cache) == stems
    assert content(cache) == second
    for other in (
        replace(plan, spacing=(2.0, 2.0, 2.0)),
        replace(plan, normalization=('nonorm',)),
        replace(plan, axes=(1, 0, 2)),
        replace(plan, use_mask_for_norm=(not plan.use_mask_for_norm[0],)),
        replace(plan, labels=replace(plan.labels, ignore_label=3)),
    ):
        assert other.digest != plan.digest
    # A file that changes is another case.
    path = Path(dataset.training[0].labels)
    os.utime(path, ns=(1, 1))
    assert cache_cases(dataset.training[:1], plan, cache) != stems[:1]
    assert second.items() < content(cache).items()
    after = {k: v for k, v in content(root).items() if k != str(path)}
    assert after.items() < raw.items()


def test_intensities_matter_to_ct_alone(make_dataset: Make) -> None:
    make_dataset(channels=('CT',))
    make_dataset('Dataset005_Blobs', channels=('MRI',))
    for dataset, same in ((4, False), (5, True)):
        plan = plan_dataset(dataset)
        moved = replace(
            plan, intensities=(dict(plan.intensities[0], mean=0.0),)
        )
        assert (moved.digest == plan.digest) is same


def test_an_interrupted_case_is_prepared_again(
    make_dataset: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset()
    plan, dataset = plan_dataset(4), find_dataset(4)
    save = np.save

    def stop(path: Path, array: np.ndarray) -> None:
        if 'seg.npy' in str(path):
            Path(path).write_bytes(b'half')
            raise KeyboardInterrupt
        save(path, array)

    monkeypatch.setattr(case_cache.np, 'save', stop)
    with pytest.raises(KeyboardInterrupt):
        cache_cases(dataset.training[:1], plan, tmp_path / 'cache')
    names = [p.name for p in (tmp_path / 'cache').rglob('*.*')]
    assert any(name.endswith('.img.npy') for name in names)
    assert not [n for n in names if 'seg' in n or n.endswith('.json')]
    monkeypatch.setattr(case_cache.np, 'save', save)
    (stem,) = cache_cases(dataset.training[:1], plan, tmp_path / 'cache')
    assert set(np.unique(read_case(stem)['gt_seg_map'])) <= {0, 1, 2}


def test_all_broken_cases_are_named(
    make_dataset: Make, tmp_path: Path
) -> None:
    make_dataset()
    plan, dataset = plan_dataset(4), find_dataset(4)
    for i in (1, 3):
        Path(dataset.training[i].images[0]).write_bytes(b'')
    with pytest.raises(ValueError, match='unreadable') as error:
        cache_cases(dataset.training, plan, tmp_path)
    first, second = str(error.value).splitlines()
    assert 'case_01_0000' in first
    assert 'case_03_0000' in second
    # The others are done.
    assert len(list(tmp_path.rglob('case_*.json'))) == 3
    Path(dataset.training[1].images[0]).unlink()
    with pytest.raises(ValueError, match=r'case_01_0000.*no such file'):
        cache_cases(dataset.training, plan, tmp_path)


def run_together(count: int, work: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_several_at_once_share_the_work(tmp_path: Path) -> None:
    items = list(range(60))
    done: list[int] = []
    started = threading.Barrier(3)

    def path(item: int) -> Path:
        return tmp_path / str(item)

    def work(item: int) -> None:
        with complete_or_absent(path(item)) as partial:
            partial.write_text(str(item))
            threading.Event().wait(0.005)
        done.append(item)

    def run() -> None:
        started.wait()
        do_missing(
            items,
            work,
            is_done=lambda item: path(item).exists(),
            description='x',
            num_workers=1,
        )

    quiet = pytest.MonkeyPatch()
    # One terminal has one progress bar.
    quiet.setattr(shared_work, 'track', lambda tasks, *_, **__: tasks)
    run_together(3, run)
    quiet.undo()
    assert set(done) == set(items)
    assert len(done) < 1.5 * len(items)
    assert {p.name for p in tmp_path.iterdir()} == set(map(str, items))
    assert all(path(item).read_text() == str(item) for item in items)


def test_errors_of_the_program_are_not_collected(tmp_path: Path) -> None:
    def work(item: int) -> None:
        raise TypeError(f'a bug in {item}')

    with pytest.raises(TypeError, match='a bug in'):
        do_missing([1, 2], work, is_done=lambda item: False, description='x')


@pytest.mark.slow
def test_several_processes_prepare_one_dataset(
    make_dataset: Make, tmp_path: Path
) -> None:
    make_dataset(num_cases=12)
    code = (
        'from upernet_ext.datasets import NnUNetDataset\n'
        "data = NnUNetDataset(4, fold='all', pipeline=["
        "dict(type='upernet_ext.LoadCase')])\n"
        'assert len([data[i] for i in range(12)]) == 12\n'
    )
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', code],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    (folder,) = (tmp_path / 'preprocessed').glob('*/3d_fullres_upernet_*')
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == 12 * 5
    assert not [name for name in names if name.startswith('.')]
