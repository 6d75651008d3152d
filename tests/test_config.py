import ast
import importlib.util
import re
import runpy
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from upernet_ext.config import (
    AXIS_KEYS,
    RETIRED_KEYS,
    RUNNER_KEYS,
    ConfigError,
    config_folder,
    load_config,
    sources,
)

# A small experiment of the same build as those in configs/.
FILES = {
    'backbone.py': """
backbone = dict(type='mmseg.ResNetV1c', depth=50)
neck = None
normalization = dict(mean=[1, 2, 3], std=[4, 5, 6])
""",
    'head.py': """
decode_head = dict(type='upernet_ext.UPerHead', channels=8)
auxiliary_head = None
""",
    'dataset.py': """
data_root = 'data/here'
classes = ['sky', 'sea', 'land']
num_classes = len(classes)
in_channels = 3
spatial_dims = 2
crop_size = (64, 64)
train_pipeline = [dict(type='RandomCrop', crop_size=crop_size)]
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        type='upernet_ext.FolderDataset',
        data_root=data_root,
        classes=classes,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='upernet_ext.FolderDataset', data_root=data_root, classes=classes
    )
)
""",
    'schedule.py': """
max_iters = 1000
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.2))
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, begin=0, end=max_iters // 10),
    dict(type='PolyLR', by_epoch=False, begin=max_iters // 10, end=max_iters),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters)
""",
    'experiment.py': """
'''A small experiment.'''
_base_ = ['backbone.py', 'head.py', 'dataset.py', 'schedule.py']
default_scope = 'mmseg'
model = dict(
    type='upernet_ext.EncoderDecoder',
    data_preprocessor=dict(**_base_.normalization, size=_base_.crop_size),
    backbone=dict(_base_.backbone, drop_path_rate=0.3),
    neck=_base_.neck,
    decode_head=_base_.decode_head,
    auxiliary_head=_base_.auxiliary_head,
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
)
""",
}


@pytest.fixture
def write(tmp_path):
    """Write config files beside the small experiment; return the first."""

    def write(**texts):
        for name, text in texts.items():
            (tmp_path / f'{name}.py').write_text(text)
        return tmp_path / f'{next(iter(texts))}.py'

    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return write


@pytest.fixture
def experiment(write, tmp_path):
    return tmp_path / 'experiment.py'


def child(text):
    return f"_base_ = 'experiment.py'\n{text}\n"


def refused(path, message, **overrides):
    overrides = {k.replace('__', '.'): v for k, v in overrides.items()}
    with pytest.raises(ConfigError, match=message):
        load_config(path, overrides=overrides)


# --- what a config is -------------------------------------------------------


def test_the_join_follows_the_bases(experiment):
    cfg = load_config(experiment)
    assert cfg.filename == str(experiment)
    assert cfg.model.backbone == dict(
        type='mmseg.ResNetV1c', depth=50, drop_path_rate=0.3
    )
    assert cfg.model.num_classes == 3
    assert cfg.model.data_preprocessor.mean == [1, 2, 3]


def test_a_dump_reloads_equal_in_both_loaders(experiment, tmp_path):
    cfg = load_config(experiment, overrides={'max_iters': 50})
    again = Config.fromstring(cfg.pretty_text, '.py')
    assert again.to_dict() == cfg.to_dict()
    cfg.dump(tmp_path / 'dump.py')
    assert load_config(tmp_path / 'dump.py').to_dict() == cfg.to_dict()


def test_it_is_found_by_file_by_name_and_with_a_hint(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    name = 'upernet_resnet50_ade20k'
    file = config_folder() / f'{name}.py'
    for path in (file, str(file), name, f'{name}.py', f'configs/{name}.py'):
        assert load_config(path).filename == str(file)
    refused('upernet_resnet50_ad20k', f'no config .*did you mean {name!r}')
    (tmp_path / 'a.yaml').write_text('a: 1')
    refused('a.yaml', r'expected a \.py')


def test_an_installed_package_has_its_configs_inside(monkeypatch, tmp_path):
    checkout = config_folder()
    assert checkout == Path(__file__).parents[1] / 'configs'
    (tmp_path / 'configs').mkdir()
    file = tmp_path / 'config' / 'sources.py'
    monkeypatch.setattr(sources, '__file__', str(file))
    assert config_folder() == tmp_path / 'configs'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a = (', r'broken\.py, line 1: '),
        ('import numpy', "imports 'numpy'; a config inherits by _base_"),
        ("_base_ = ['a.py', *b]", 'written out'),
        ("_base_ = 'experimnt.py'", "'experimnt.py' .*mean 'experiment'"),
        ("_base_ = ['head.py', 'head2.py']", 'may not set the same key'),
        ("_base_ = 'head.py'\na = _base_.neck", 'of its _base_ set it'),
        ('a = 1 / 0', 'ZeroDivisionError'),
    ],
)
def test_a_file_that_cannot_be_read_is_named(write, text, message):
    path = write(broken=text, head2='decode_head = None')
    refused(path, rf'(?s){re.escape(str(path))}.*|{message}')
    refused(path, message)


# --- retired and misspelt keys ----------------------------------------------


@pytest.mark.parametrize('key', sorted(RETIRED_KEYS))
def test_a_retired_key_names_its_replacement(write, experiment, key):
    message = f'key {key!r} is retired.*{re.escape(RETIRED_KEYS[key])}'
    refused(write(new=child(f'{key} = dict(a=1)')), message)
    refused(experiment, message, **{f'{key}__a': 1})


@pytest.mark.parametrize(
    ('typo', 'meant'),
    [
        ('optim_wraper', 'optim_wrapper'),
        ('param_schedular', 'param_scheduler'),
        ('train_dataloder', 'train_dataloader'),
        ('default_hook', 'default_hooks'),
        ('custom_hook', 'custom_hooks'),
        ('backbon', 'backbone'),
        ('decode_heads', 'decode_head'),
        ('num_class', 'num_classes'),
        ('data_rot', 'data_root'),  # a variable that a base sets
        ('max_iter', 'max_iters'),
    ],
)
def test_a_misspelt_key_is_refused_with_a_hint(write, experiment, typo, meant):
    refused(write(new=child(f'{typo} = 1')), f'{typo!r}; .*mean {meant!r}')
    refused(experiment, f'no key {typo!r}; .*mean {meant!r}', **{typo: 1})


def test_other_variables_are_allowed(write):
    """Every name that a config of mmsegmentation's zoo sets, less the retired.

    None of them is a slip for a key of ours.
    """
    zoo = Path(importlib.util.find_spec('mmseg').origin).parent / '.mim'
    names = {'img_scale', 'dataset_type', 'note', 'lr', 'lr_scale'}
    for file in zoo.glob('configs/**/*.py'):
        for node in ast.parse(file.read_text()).body:
            for target in getattr(node, 'targets', []):
                names.add(getattr(target, 'id', '_base_'))
    names -= {*RETIRED_KEYS, *RUNNER_KEYS, *AXIS_KEYS, '_base_'}
    # The zoo's own slip, in bisenetv2_fcn_4xb4-ohem-160k_cityscapes.
    names.remove('models')
    refused(write(slip='models = dict(a=1)'), "'models'; did you mean 'model'")
    assert len(names) > 30
    text = '\n'.join(f'{name} = None' for name in sorted(names))
    cfg = load_config(write(new=text))
    assert set(cfg) >= names


def test_an_alike_name_that_is_read_is_no_slip(write):
    text = 'models = [dict(type="a")]\nmodel = models[0]'
    assert load_config(write(new=text)).model.type == 'a'
    text = "_base_ = 'base.py'\nmodel = _base_.models[0]"
    path = write(new=text, base='models = [dict(type="a")]')
    assert load_config(path).model.type == 'a'


# --- axis keys --------------------------------------------------------------


@pytest.mark.parametrize('key', sorted(AXIS_KEYS))
def test_an_axis_key_is_dead_after_the_join(write, experiment, key):
    target = AXIS_KEYS[key]
    refused(
        experiment, rf'{key}.*joined.*set {target}\.x$', **{f'{key}__x': 1}
    )
    refused(write(new=child(f'{key} = dict(x=1)')), f'{key}.*set {target}: ')
    grandchild = write(new="_base_ = 'mid.py'\n" + f'{key} = 1', mid=child(''))
    refused(grandchild, f'{key}.*set {target}: ')


def test_an_axis_key_beside_the_join_is_dead_too(write):
    text = FILES['experiment.py'] + '\nbackbone = dict(depth=18)'
    refused(write(new=text), r'backbone.*set model\.backbone: ')


def test_an_axis_key_may_be_merged_before_the_join(write):
    path = write(
        new=FILES['experiment.py'].replace('backbone.py', 'thin.py'),
        thin="_base_ = 'backbone.py'\nbackbone = dict(depth=18)",
    )
    assert load_config(path).model.backbone.depth == 18


def test_an_axis_key_that_the_file_joins_itself_acts(write):
    text = 'backbone = dict(type="b")\nmodel = dict(backbone=backbone)'
    assert load_config(write(new=child(text))).model.backbone.type == 'b'


# --- overrides --------------------------------------------------------------


def test_overrides_act(experiment):
    cfg = load_config(
        experiment,
        overrides={
            'optim_wrapper.optimizer.lr': 0.5,
            'optim_wrapper.clip_grad.max_norm': 1.0,  # a new dict
            'train_dataloader.batch_size': 7,
            'model.backbone.norm_eval': True,  # a new argument
            'model.backbone.drop_path_rate': 0.1,
            'param_scheduler.1.power': 0.9,
            'work_dir': 'out',
            'train_dataloader': dict(num_workers=1),
        },
    )
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.2
    assert cfg.optim_wrapper.clip_grad.max_norm == 1.0
    assert cfg.train_dataloader.batch_size == 7
    assert cfg.train_dataloader.num_workers == 1
    assert cfg.model.backbone.norm_eval
    assert cfg.model.backbone.drop_path_rate == 0.1
    assert cfg.param_scheduler[1].power == 0.9
    assert cfg.work_dir == 'out'


def test_overrides_are_not_changed(experiment):
    overrides = {'model.backbone': dict(_delete_=True, type='b')}
    cfg = load_config(experiment, overrides=overrides)
    assert cfg.model.backbone == dict(type='b')
    assert overrides == {'model.backbone': dict(_delete_=True, type='b')}


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('model.backbon.depth', "without 'backbon'; .*'backbone'"),
        ('model.backbone.dept', "without 'dept'; .*'depth'"),
        ('optim_wrapper.optimizer.weigth_decay', "mean 'weight_decay'"),
        ('train_cfg.max_iter', "mean 'max_iters'"),
        ('param_scheduler.2.end', 'a list of 2, expected an index'),
        ('param_scheduler.x', "index below that, got 'x'"),
        ('model.num_classes.x', 'model.num_classes is 3, .* set it whole'),
        ('model.neck.type', 'model.neck is None, .* set it whole'),
        ('nonsense', "has no key 'nonsense'$"),
    ],
)
def test_an_override_that_leads_nowhere_is_refused(experiment, key, message):
    with pytest.raises(ConfigError, match=message):
        load_config(experiment, overrides={key: 1})


def test_a_misspelt_key_inside_a_dict_override_is_refused(experiment):
    refused(
        experiment,
        "'optimiser'.*mean 'optimizer'",
        **{'optim_wrapper': dict(optimiser=dict(lr=1))},
    )


# --- variables are carried --------------------------------------------------


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


# --- the schedule -----------------------------------------------------------


def schedule(*schedulers, loop='max_iters=100'):
    listed = ', '.join(f'dict({s})' for s in schedulers)
    return f'train_cfg = dict({loop})\nparam_scheduler = [{listed}]'


POLY = "type='PolyLR', by_epoch=False, "
WARM_UP = "type='LinearLR', by_epoch=False, "


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (schedule(POLY + 'end=90'), r'0 \(PolyLR\) ends at 90, before.*=100'),
        (schedule(POLY + 'end=110'), r'0 \(PolyLR\) ends at 110, after'),
        (schedule(POLY), r'has no end.*end=100'),
        (schedule(WARM_UP + 'end=200'), r'\(LinearLR\) ends at 200, after'),
        (
            schedule(WARM_UP + 'end=10', POLY + 'begin=10, end=50'),
            r'param_scheduler\.1 \(PolyLR\) ends at 50, before',
        ),
        (schedule("type='PolyLR', end=100"), 'counts epochs.*by_epoch=False'),
        (schedule(POLY + 'begin=100, end=100'), 'is empty: it begins at 100'),
        (
            schedule("type='CosineAnnealingLR', T_max=8", loop='max_epochs=9'),
            r'ends at 8, before the training \(train_cfg\.max_epochs=9\)',
        ),
    ],
)
def test_a_schedule_that_misses_the_end_is_refused(write, text, message):
    refused(write(new=text), message)


@pytest.mark.parametrize(
    'text',
    [
        schedule(),
        schedule(POLY + 'end=100'),
        schedule(POLY + 'end=100', loop=''),  # nothing to compare with
        schedule(WARM_UP + 'end=10', POLY + 'begin=10, end=100'),
        schedule(WARM_UP + 'end=10'),  # then constant
        schedule("type='MultiStepLR', by_epoch=False, milestones=[50]"),
        schedule("type='CosineAnnealingLR', T_max=9", loop='max_epochs=9'),
        schedule(POLY + 'end=100', loop='max_epochs=9'),  # iterations unknown
    ],
)
def test_a_schedule_that_meets_the_end_passes(write, text):
    load_config(write(new=text))


def test_moving_one_of_two_numbers_is_refused_and_says_how(experiment):
    refused(
        experiment,
        r'ends at 1000, after the training.*--cfg-options max_iters=N',
        train_cfg__max_iters=100,
    )
    load_config(
        experiment,
        overrides={'train_cfg.max_iters': 900, 'param_scheduler.1.end': 900},
    )


# --- the classes ------------------------------------------------------------


def data(num_classes, dataset, loader='train_dataloader'):
    return (
        f"default_scope = 'mmseg'\nmodel = dict(num_classes={num_classes})\n"
        f'{loader} = dict(dataset=dict({dataset}))'
    )


CONCAT = "type='ConcatDataset', datasets=[dict(type='CityscapesDataset')]"
NAMES = "type='upernet_ext.FolderDataset', classes=['a', 'b']"


@pytest.mark.parametrize('loader', ['train', 'val', 'test'])
def test_classes_are_compared_in_every_dataset(write, loader):
    text = data(151, "type='ADE20KDataset'", f'{loader}_dataloader')
    refused(
        write(new=text),
        rf'num_classes=151, but {loader}_dataloader\.dataset has 150 classes: '
        'wall, building',
    )
    load_config(write(new=text.replace('151', '150')))


@pytest.mark.parametrize(
    ('num_classes', 'dataset', 'message'),
    [
        (19, CONCAT, None),
        (20, CONCAT, r'dataset\.datasets\.0 has 19'),
        (
            20,
            "type='RepeatDataset', dataset=dict(type='CityscapesDataset')",
            r'dataset\.dataset has 19',
        ),
        (4, "type='upernet_ext.MNI152Dataset'", None),
        (3, "type='upernet_ext.MNI152Dataset'", 'has 4 classes: background'),
        (2, NAMES, None),
        (1, NAMES, 'one foreground class, and has one name'),
        (1, "type='upernet_ext.FolderDataset', classes=['a']", None),
        (
            150,
            "type='ADE20KDataset', metainfo=dict(classes=['a', 'b'])",
            'has 2 classes: a, b;',
        ),
        (5, "type='not_registered_anywhere'", None),
    ],
)
def test_classes_come_from_the_config_or_the_class(
    write, num_classes, dataset, message
):
    path = write(new=data(num_classes, dataset))
    if message:
        refused(path, message)
    else:
        load_config(path)


def test_classes_are_compared_with_a_borrowed_segmentor_s_head(write):
    text = data(2, NAMES)
    head = 'dict(decode_head=dict(num_classes=3))'
    refused(write(new=text.replace('dict(num_classes=2)', head)), 'has 2 cla')
    load_config(write(new=text.replace('num_classes=2', '')))


# --- the tool ---------------------------------------------------------------


@pytest.fixture
def print_config(monkeypatch, experiment):
    def run(*options):
        argv = ['print_config.py', str(experiment), '--cfg-options', *options]
        monkeypatch.setattr(sys, 'argv', argv)
        tool = Path(__file__).parents[1] / 'tools' / 'print_config.py'
        runpy.run_path(str(tool), run_name='__main__')

    return run


def test_print_config_shows_the_result(print_config, experiment, capsys):
    print_config('max_iters=50', 'crop_size=(8,8)')
    shown = Config.fromstring(capsys.readouterr().out, '.py')
    expected = load_config(
        experiment, overrides={'max_iters': 50, 'crop_size': (8, 8)}
    )
    assert shown.to_dict() == expected.to_dict()


def test_print_config_ends_with_one_line(print_config):
    with pytest.raises(SystemExit, match=r"error: .*'max_iters'"):
        print_config('max_iter=50')
