"""Files of volumes in, label maps that lie over them out."""

import logging

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from PIL import Image

from upernet_ext.apis import init_model, predict, predict_files
from upernet_ext.apis.volumes import find_cases
from upernet_ext.config import ConfigError
from upernet_ext.datasets.volumes import Plan, preprocess_image
from upernet_ext.datasets.volumes.labels import Labels
from upernet_ext.engine import DataNotFoundError
from upernet_ext.layers.rank import resize
from upernet_ext.registry import MODELS
from upernet_ext.structures import CaseGeometry

CLASSES = ('background', 'left', 'right')
AFFINE = np.array(
    [[0, -1.5, 0, 7], [0.9, 0, 0, 8], [0, 0, 3.0, -9], [0, 0, 0, 1.0]]
)
SHAPE = (7, 12, 10)


def make_plan(labels=None, channels=2):
    """Nothing that is the identity: axes are turned and voxels resampled."""
    return Plan(
        dataset='Dataset001_Tiny',
        configuration='3d_fullres',
        channel_names=('T1', 'T2')[:channels],
        labels=labels or Labels(CLASSES, 3),
        axes=(1, 0, 2),
        spacing=(2.0, 2.5, 1.0),
        patch_size=(8, 8, 8),
        batch_size=2,
        median_shape=(8, 8, 8),
        normalization=('zscore',) * channels,
        use_mask_for_norm=(False,) * channels,
        intensities=({},) * channels,
        file_ending='.nii.gz',
        source='fingerprint',
    )


def make_config(plan):
    pipeline = [
        dict(type='upernet_ext.LoadCase', test_mode=True, plan=plan.to_dict()),
        dict(type='upernet_ext.PackInputs'),
    ]
    return Config(
        dict(
            default_scope='mmseg',
            model=dict(
                type='upernet_ext.EncoderDecoder',
                data_preprocessor=dict(type='upernet_ext.SegDataPreProcessor'),
                backbone=dict(
                    type='upernet_ext.ResNet',
                    arch='resnet18',
                    base_channels=4,
                    out_indices=(0,),
                ),
                decode_head=dict(
                    type='upernet_ext.FCNHead',
                    channels=4,
                    in_index=0,
                    norm_cfg=None,
                    loss_decode=dict(type='upernet_ext.CrossEntropyLoss'),
                ),
                num_classes=plan.num_classes,
                multi_label=plan.multi_label,
                in_channels=plan.in_channels,
                spatial_dims=3,
            ),
            test_dataloader=dict(
                dataset=dict(type='upernet_ext.NnUNetDataset', dataset=1)
                | dict(pipeline=pipeline)
            ),
        )
    )


def save_checkpoint(path, plan=None, seed=0, **meta):
    plan = plan or make_plan()
    cfg = make_config(plan)
    torch.manual_seed(seed)
    model = MODELS.build(cfg.model)
    with torch.no_grad():  # no class may win everywhere
        model.decode_head.conv_seg.weight.mul_(100)
    facts = dict(
        classes=plan.classes,
        palette=[[9, 9, 9], [250, 0, 0], [0, 0, 250]],
        regions_class_order=plan.labels.regions_class_order,
        **meta,
    )
    content = dict(
        meta=dict(cfg=cfg.pretty_text, dataset_meta=facts),
        state_dict=model.state_dict(),
    )
    torch.save(content, path)
    return path


def save_volume(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.random.default_rng(seed).normal(size=SHAPE[::-1])
    array[:2] = 0  # to be cropped
    array = array.astype(np.float32)
    if path.name.endswith('.mha'):
        image = sitk.GetImageFromArray(array.transpose())
        image.SetSpacing((0.9, 1.5, 3.0))
        image.SetOrigin((1.0, 2.0, 3.0))
        sitk.WriteImage(image, str(path))
    else:
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
    return path


def save_case(folder, case, end='.nii.gz'):
    return [
        save_volume(folder / f'{case}_{c:04d}{end}', seed=c) for c in (0, 1)
    ]


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp('run') / 'fold_0.pth')


@pytest.fixture(scope='module')
def model(checkpoint):
    return init_model(checkpoint, device='cpu')


def by_hand(models, paths):
    """Prepare, mean of logits, resample, decide, paste."""
    case = preprocess_image(paths, make_plan())
    x = torch.from_numpy(case['img'])[None]
    with torch.no_grad():
        logits = torch.stack([m.encode_decode(x) for m in models]).mean(0)
    geometry = CaseGeometry.from_metainfo(case)
    labels = resize(logits, geometry.box_shape).argmax(1)
    return geometry.paste(labels)


def test_a_case_is_predicted_in_the_grid_of_its_file(model, tmp_path):
    paths = save_case(tmp_path, 'a')
    labels = predict(model, [paths])[0].pred_sem_seg.data
    assert labels.shape == (1, *SHAPE)
    assert len(labels.unique()) == 3
    assert (labels[..., :2] == 0).all()
    assert torch.equal(labels.long(), by_hand([model], paths))


def test_files_of_a_folder_lie_over_their_images(model, tmp_path):
    for case in ('one', 'sub/two'):
        save_case(tmp_path / 'in', case)
    save_case(tmp_path / 'in', 'three', '.mha')
    (tmp_path / 'in' / '._one_0000.nii.gz').write_bytes(b'of macOS')
    predict_files(model, tmp_path / 'in', tmp_path / 'out')
    found = sorted(
        str(f.relative_to(tmp_path / 'out'))
        for f in (tmp_path / 'out').rglob('*.*')
    )
    assert found == [
        'labels/one.nii.gz',
        'labels/sub/two.nii.gz',
        'labels/three.mha',
        'overlays/one.png',
        'overlays/sub/two.png',
        'overlays/three.png',
    ]
    written = nibabel.load(tmp_path / 'out' / 'labels' / 'one.nii.gz')
    source = nibabel.load(tmp_path / 'in' / 'one_0000.nii.gz')
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.get_data_dtype() == np.uint8
    paths = [tmp_path / 'in' / f'one_000{c}.nii.gz' for c in (0, 1)]
    np.testing.assert_array_equal(
        np.asarray(written.dataobj).transpose(), by_hand([model], paths)[0]
    )
    with Image.open(tmp_path / 'out' / 'overlays' / 'one.png') as picture:
        colors = np.asarray(picture).reshape(-1, 3).astype(int)
    assert (colors[:, 0] - colors[:, 2] > 60).any()  # the left is red


def test_bad_cases_are_named_and_the_others_go_on(model, tmp_path):
    save_case(tmp_path / 'in', 'good')
    save_case(tmp_path / 'in', 'short')[1].write_bytes(b'\x1f\x8b\x08short')
    save_case(tmp_path / 'in', 'halved')[0].unlink()
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        with pytest.raises(ValueError, match='1 of 3 images predicted, 2'):
            predict_files(model, tmp_path / 'in', tmp_path / 'out')
    finally:
        logger.removeHandler(handler)
    text = '\n'.join(lines)
    assert 'short: ' in text
    assert 'short_0001.nii.gz: unreadable' in text
    assert 'halved: the model takes 2 channels, files ending in 0000' in text
    assert "there are halved_0001.nii.gz, and ['0000'] are missing" in text
    assert [f.name for f in (tmp_path / 'out' / 'labels').iterdir()] == [
        'good.nii.gz'
    ]


def test_the_logits_of_folds_are_averaged(checkpoint, tmp_path):
    paths = save_case(tmp_path, 'a')
    folds = [checkpoint, save_checkpoint(tmp_path / 'fold_1.pth', seed=1)]
    models = [init_model(fold, device='cpu') for fold in folds]
    both = init_model(folds, device='cpu')
    mean = predict(both, [paths])[0].pred_sem_seg.data
    assert torch.equal(mean.long(), by_hand(models, paths))
    for one in models:
        alone = predict(one, [paths])[0].pred_sem_seg.data
        assert not torch.equal(mean, alone)
    predict_files(both, paths[0], tmp_path / 'out')
    written = nibabel.load(tmp_path / 'out' / 'labels' / 'a.nii.gz')
    np.testing.assert_array_equal(
        np.asarray(written.dataobj).transpose(), mean[0]
    )


def test_models_that_differ_are_not_averaged(checkpoint, tmp_path):
    names = Labels(('background', 'up', 'down'), 3)
    other = save_checkpoint(tmp_path / 'other.pth', make_plan(names))
    with pytest.raises(
        ConfigError, match=r'other\.pth and .*classes, pipeline differ'
    ):
        init_model([checkpoint, other], device='cpu')


def test_regions_become_one_label_map(tmp_path):
    labels = Labels(('whole', 'core'), 3, ((1, 2), (2,)), (1, 2))
    plan = make_plan(labels, channels=1)
    path = save_checkpoint(tmp_path / 'regions.pth', plan, multi_label=True)
    model = init_model(path, device='cpu')
    image = save_volume(tmp_path / 'scan.nii')
    planes = predict(model, image).pred_sem_seg.data.numpy()
    assert planes.shape == (2, *SHAPE)
    predict_files(model, image, tmp_path / 'out')
    written = nibabel.load(tmp_path / 'out' / 'labels' / 'scan.nii')
    expected = np.where(planes[1], 2, np.where(planes[0], 1, 0))
    assert set(np.unique(expected)) == {0, 1, 2}
    np.testing.assert_array_equal(
        np.asarray(written.dataobj).transpose(), expected
    )


@pytest.mark.parametrize(
    ('files', 'num_channels', 'cases'),
    [
        (['a.nii', 'b.v2.nii.gz', 'c.MHA'], 1, ['a', 'b.v2', 'c']),
        (['a_0000.nrrd', 'b_0000.nrrd'], 1, ['a', 'b']),
        # These numbers are the cases'.
        (['s_0000.nii', 's_0001.nii'], 1, ['s_0000', 's_0001']),
        (['s_0000.nii', 'x/s_0000.nii'], 1, ['s', 'x/s']),
        (['s_0000.nii', 's_0001.nii', 't.nii'], 2, ['s', 't']),
        (['s_0000.nii', 'x/s_0001.nii'], 2, ['s', 'x/s']),
        (['s.nii', 'notes.txt', '.s.nii'], 1, ['s']),
    ],
)
def test_files_are_put_together_to_cases(tmp_path, files, num_channels, cases):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    found = find_cases(str(tmp_path), num_channels)
    assert sorted(map(str, found)) == cases
    for name, members in found.items():
        assert members == sorted(members)
        expected = [f for f in files if f.startswith(str(name))]
        assert len(members) == len(expected)


def test_one_file_or_a_pattern_is_enough(tmp_path):
    for case in ('a', 'aa', 'b'):
        save_case(tmp_path, case)
    found = find_cases(str(tmp_path / 'a_0000.nii.gz'), 2)
    assert [str(n) for n in found] == ['a']
    names = [f.name for members in found.values() for f in members]
    assert names == ['a_0000.nii.gz', 'a_0001.nii.gz']
    found = find_cases(str(tmp_path / 'a*.nii.gz'), 2)
    assert [str(name) for name in found] == ['a', 'aa']
    with pytest.raises(DataNotFoundError, match='no volumes at'):
        find_cases(str(tmp_path / 'empty'), 1)


def test_an_array_without_spacing_is_refused(model):
    with pytest.raises(ValueError, match='has no spacing'):
        predict(model, np.zeros((2, 4, 4, 4)))
