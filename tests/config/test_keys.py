"""Keys and overrides that nothing reads are refused."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

from upernet_ext.config import (
    AXIS_KEYS,
    RETIRED_KEYS,
    RUNNER_KEYS,
    ConfigError,
    load_config,
)

from .conftest import FILES, child, refused

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
