"""A config file is found, read, joined and shown."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from upernet_ext.config import config_folder, load_config, sources

from .conftest import refused

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
    assert checkout == Path(__file__).parents[2] / 'configs'
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


# --- the tool ---------------------------------------------------------------


@pytest.fixture
def print_config(monkeypatch, experiment):
    def run(*options):
        argv = ['print_config.py', str(experiment), '--cfg-options', *options]
        monkeypatch.setattr(sys, 'argv', argv)
        tool = Path(__file__).parents[2] / 'tools' / 'print_config.py'
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
