"""A config takes its numbers from the volumes it is pointed at."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from upernet_ext.config import ConfigError, load_config
from upernet_ext.datasets.volumes import plan_dataset
from upernet_ext.engine.planned_config import load_planned_config

NAME = 'upernet_resnet18_nnunet'


def choose(configuration='3d_fullres', fold=0):
    return dict(dataset=7, configuration=configuration, fold=fold)


@pytest.mark.parametrize('configuration', ['2d', '3d_fullres'])
def test_all_numbers_follow_from_the_data(configuration, blobs, tmp_path):
    cfg = load_planned_config(
        NAME, overrides=dict(nnunet=choose(configuration, 3))
    )
    plan = plan_dataset(7, configuration)
    rank = 2 if configuration == '2d' else 3
    assert cfg.model.spatial_dims == plan.spatial_dims == rank
    assert cfg.model.in_channels == 2
    assert cfg.model.num_classes == 3
    assert tuple(cfg.model.test_cfg.crop_size) == plan.patch_size
    assert tuple(cfg.model.data_preprocessor.size) == plan.patch_size
    crop = cfg.train_dataloader.dataset.pipeline[1]
    assert tuple(crop.size) == plan.patch_size
    # Nothing is left of the scales for images.
    assert cfg.mirrored.to_dict() == dict(
        scales=(1.0,), flip_axes=tuple(range(-rank, 0)), average='logits'
    )
    # The file sets this one again.
    assert cfg.train_dataloader.batch_size == 2
    assert plan.batch_size > 2 or rank == 3
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        assert loader.dataset.configuration == configuration
        assert loader.dataset.fold == 3
    # A checkpoint's config prepares new cases.
    load = cfg.test_dataloader.dataset.pipeline[0]
    assert load.plan.to_dict() == plan.to_dict()
    folder = tmp_path / 'results' / 'Dataset007_Blobs'
    folder = folder / f'{NAME}__{configuration}' / 'fold_3'
    assert Path(cfg.work_dir) == folder


def test_thick_slices_are_halved_late(blobs):
    for file in blobs.glob('*Tr/*.nii.gz'):
        image = nibabel.load(file)
        affine = image.affine @ np.diag([4, 1, 1, 1])
        nibabel.save(
            nibabel.Nifti1Image(np.asarray(image.dataobj), affine), file
        )
    cfg = load_planned_config(NAME, overrides=dict(nnunet=choose()))
    first = cfg.model.backbone.halvings[0]
    assert sorted(first) == [1, 2, 2]


def test_the_user_has_the_last_word(blobs):
    overrides = dict(nnunet=choose(), crop_size=(8, 16, 16), num_workers=0)
    cfg = load_planned_config(NAME, overrides=overrides)
    assert tuple(cfg.model.test_cfg.crop_size) == (8, 16, 16)
    assert cfg.train_dataloader.num_workers == 0
    assert cfg.model.in_channels == 2


def test_a_missing_dataset_is_named(blobs):
    with pytest.raises(ValueError, match='Dataset009'):
        load_planned_config(NAME, overrides=dict(nnunet=dict(dataset=9)))


def test_a_config_of_images_is_read_as_before():
    name = 'upernet_resnet18_mni152'
    planned, plain = load_planned_config(name), load_config(name)
    assert planned.to_dict() == plain.to_dict()
    with pytest.raises(ConfigError, match="no key 'nnunet'"):
        load_planned_config(name, overrides=dict(nnunet=choose()))
