import nibabel
import numpy as np
import pytest
from mmengine.registry import DefaultScope
from nilearn.datasets import load_mni152_template

from upernet_ext.datasets import DataError, MNI152Dataset
from upernet_ext.datasets.mni152 import (
    SLABS,
    SLICES,
    load_mni152,
    write_mni152_cases,
)
from upernet_ext.datasets.volumes import find_dataset, read_volume
from upernet_ext.datasets.volumes.splits import find_splits
from upernet_ext.registry import DATASETS


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def build(**options):
    options.setdefault('pipeline', [dict(type='upernet_ext.PackInputs')])
    return DATASETS.build(dict(type='upernet_ext.MNI152Dataset', **options))


def test_held_out_slices_are_5_mm_from_all_others():
    for name, slices in SLICES.items():
        others = [z for n, zs in SLICES.items() if n != name for z in zs]
        gap = np.abs(np.subtract.outer(slices, others)).min()
        assert gap > 5
    for name in ('val', 'test'):
        assert np.ptp(SLICES[name]) == len(SLICES[name]) - 1
    held_out = SLICES['val'] + SLICES['test']
    assert min(SLICES['train']) < min(held_out)
    assert max(held_out) < max(SLICES['train'])


def test_every_split_holds_every_class():
    _, labels = load_mni152()
    for slices in SLICES.values():
        for z in slices:
            counts = np.bincount(labels[z].ravel(), minlength=4)
            assert counts.min() > 200


def test_labels_follow_the_tissue_maps():
    """The rule, spelt out voxel by voxel on nilearn's arrays."""
    from nilearn import datasets

    grey, white, brain = (
        np.asarray(load(resolution=1).dataobj)
        for load in (
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
            datasets.load_mni152_brain_mask,
        )
    )
    image, labels = load_mni152()
    t1 = np.asarray(datasets.load_mni152_template(resolution=1).dataobj)
    rng = np.random.default_rng(0)
    for _ in range(3000):
        x, y, z = (rng.integers(n) for n in grey.shape)
        g, w = grey[x, y, z], white[x, y, z]
        expected = int(np.argmax([1 - g - w, g, w])) + 1
        here = z, grey.shape[1] - 1 - y, x
        assert labels[here] == (expected if brain[x, y, z] else 0)
        assert image[here] == round(float(t1[x, y, z]) * 255)


def test_tissues_have_their_t1_contrast():
    image, labels = load_mni152()
    csf, grey, white = (image[labels == k].mean() for k in (1, 2, 3))
    assert csf + 40 < grey < white - 30


def test_the_template_is_symmetric_so_sides_must_not_be_split():
    image, _ = load_mni152()
    np.testing.assert_array_equal(image, image[..., ::-1])


def test_slices_are_packed_under_their_name():
    image, labels = load_mni152()
    dataset = build(split='test', test_mode=True)
    assert len(dataset) == 10
    sample = dataset[3]
    meta = sample['data_samples']
    assert meta.img_path == 'mni152_axial_093'
    assert meta.ori_shape == (233, 197)
    np.testing.assert_array_equal(sample['inputs'][0], image[93])
    np.testing.assert_array_equal(meta.gt_sem_seg.data[0], labels[93])
    assert dataset.metainfo['classes'][2] == 'grey_matter'


def test_slices_pass_mmsegs_transforms_and_stay_as_they_are():
    pipeline = [
        dict(type='upernet_ext.LoadImage', color='grayscale'),
        dict(type='upernet_ext.LoadMask'),
        dict(type='RandomCrop', crop_size=(160, 128), cat_max_ratio=0.75),
        dict(type='RandomFlip', prob=1.0),
        dict(type='upernet_ext.PhotoMetricDistortion'),
        dict(type='upernet_ext.PackInputs'),
    ]
    before = [array.copy() for array in load_mni152()]
    dataset = build(split='train', pipeline=pipeline, indices=6)
    for sample in dataset:
        assert sample['inputs'].shape == (1, 160, 128)
    for array, copy in zip(load_mni152(), before, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_the_whole_volume():
    image, labels = load_mni152()
    dataset = build(volume=True)
    assert len(dataset) == 1
    sample = dataset[0]
    np.testing.assert_array_equal(sample['inputs'], image[None])
    truth = sample['data_samples'].gt_sem_seg
    np.testing.assert_array_equal(truth.data, labels[None])
    assert truth.spacing == (1.0, 1.0, 1.0)
    assert sample['data_samples'].ori_shape == (189, 233, 197)


def test_without_a_split_all_slices_come():
    names = [sample['data_samples'].img_path for sample in build()]
    assert names[0] == 'mni152_axial_025'
    assert names[-1] == 'mni152_axial_140'
    assert len(names) == 116


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(split='left'), "'left'"),
        (dict(split='val', volume=True), 'leave'),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MNI152Dataset(**options)


def test_an_error_names_the_slice():
    pipeline = [dict(type='upernet_ext.LoadMask', num_classes=2)]
    with pytest.raises(DataError, match='mni152_axial_090'):
        build(split='test', pipeline=pipeline)[0]


def test_the_template_as_cases_of_nnunet(tmp_path):
    root = write_mni152_cases(tmp_path)
    image, labels = load_mni152()
    dataset = find_dataset(root)
    assert [case.name for case in dataset.training] == sorted(SLABS)
    whole = load_mni152_template(resolution=1)
    for case in dataset.training:
        first, end = SLABS[case.name]
        for path, array in ((case.images[0], image), (case.labels, labels)):
            volume = read_volume(path)
            np.testing.assert_array_equal(volume.array, array[first:end, ::-1])
        # The voxel lies where it lay in the template.
        corner = nibabel.load(case.images[0]).affine @ [0, 0, 0, 1]
        np.testing.assert_array_equal(corner, whole.affine @ [0, 0, first, 1])
    inside = {z for ends in SLABS.values() for z in range(*ends)}
    assert inside >= {z for slices in SLICES.values() for z in slices}
    fold = find_splits([root], list(SLABS))[0]
    held_out = range(*SLABS[fold['val'][0]])
    assert set(held_out) >= {*SLICES['val'], *SLICES['test']}
    assert not set(held_out) & set(SLICES['train'])
