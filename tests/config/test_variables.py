"""A variable is carried to all that is computed from it."""

from upernet_ext.config import load_config

from .conftest import child, refused


def carried(cfg):
    return (
        cfg.train_cfg.max_iters,
        [(s.begin, s.end) for s in cfg.param_scheduler],
        cfg.train_dataloader.dataset.data_root,
        cfg.val_dataloader.dataset.data_root,
        cfg.model.data_preprocessor.size,
        cfg.train_dataloader.dataset.pipeline[0].crop_size,
        cfg.model.num_classes,
    )


VARIABLES = dict(
    max_iters=50,
    data_root='elsewhere',
    crop_size=(32, 48),
    classes=['a', 'b'],
)
CARRIED = (
    50,
    [(0, 5), (5, 50)],
    'elsewhere',
    'elsewhere',
    (32, 48),
    (32, 48),
    2,
)


def test_an_override_of_a_variable_moves_all_that_is_computed(experiment):
    cfg = load_config(experiment, overrides=VARIABLES)
    assert carried(cfg) == CARRIED
    assert cfg.filename == str(experiment)
    assert cfg.max_iters == 50


def test_a_variable_set_again_in_a_file_moves_the_same(write):
    text = '\n'.join(f'{k} = {v!r}' for k, v in VARIABLES.items())
    assert carried(load_config(write(new=child(text)))) == CARRIED


def test_a_part_of_a_variable_is_carried_too(experiment):
    overrides = {'train_pipeline.0.cat_max_ratio': 0.5}
    cfg = load_config(experiment, overrides=overrides)
    transform = cfg.train_dataloader.dataset.pipeline[0]
    assert transform == dict(
        type='RandomCrop', crop_size=(64, 64), cat_max_ratio=0.5
    )


def test_the_last_file_and_then_the_override_win(write):
    path = write(
        new="_base_ = 'mid.py'\nmax_iters = 30", mid=child('max_iters = 20')
    )
    assert load_config(path).train_cfg.max_iters == 30
    assert load_config(path.with_name('mid.py')).train_cfg.max_iters == 20
    cfg = load_config(path, overrides={'max_iters': 40})
    assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_iters == 40


def test_what_is_known_of_the_data_takes_the_bases_places(write):
    path = write(new=child('max_iters = 20'))
    known = dict(
        in_channels=1, spatial_dims=3, crop_size=(8, 8, 8), max_iters=30
    )
    cfg = load_config(path, variables=dict(known, of_no_file=7))
    assert cfg.model.in_channels == cfg.in_channels == 1
    assert cfg.model.spatial_dims == 3
    transform = cfg.train_dataloader.dataset.pipeline[0]
    assert tuple(transform.crop_size) == (8, 8, 8)
    assert cfg.train_cfg.max_iters == 20
    assert 'of_no_file' not in cfg
    cfg = load_config(path, overrides={'max_iters': 40}, variables=known)
    assert cfg.train_cfg.max_iters == 40


def test_a_file_that_uses_its_variable_keeps_it_to_itself(write):
    text = (
        "data_root = 'mine'\n"
        'val_dataloader = dict(dataset=dict(data_root=data_root))'
    )
    cfg = load_config(write(new=child(text)))
    assert cfg.val_dataloader.dataset.data_root == 'mine'
    assert cfg.train_dataloader.dataset.data_root == 'data/here'


def test_what_the_child_sets_beside_the_variable_stays(write):
    text = 'max_iters = 50\noptim_wrapper = dict(optimizer=dict(lr=9.0))'
    cfg = load_config(write(new=child(text)))
    assert cfg.optim_wrapper.optimizer.lr == 9.0
    assert cfg.train_cfg.max_iters == 50


def test_a_variable_that_changes_nothing_is_refused(experiment, tmp_path):
    load_config(experiment).dump(tmp_path / 'dump.py')
    refused(
        tmp_path / 'dump.py',
        r'max_iters=50 changes nothing.*set '
        r'param_scheduler\.1\.end and train_cfg\.max_iters$',
        max_iters=50,
    )


def test_a_variable_set_in_a_loop_cannot_be_carried(write):
    path = write(new='for lr in (1, 2):\n    pass')
    refused(path, "lr=3 changes nothing.*computed from 'lr'$", lr=3)


def test_the_folder_of_the_file_survives_a_second_run(write, tmp_path):
    path = write(new=child("note = '{{ fileDirname }}'\nmax_iters = 50"))
    assert load_config(path).note == str(tmp_path)
