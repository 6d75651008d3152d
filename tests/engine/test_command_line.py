import argparse

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger

from upernet_ext.config import ConfigError
from upernet_ext.engine.command_line import (
    add_run_arguments,
    read_run_config,
    tool,
)

NAMES = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')


@pytest.fixture
def parse(tmp_path, monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / 'mine.py'
    config.write_text('max_iters = 3\ntrain_cfg = dict(max_iters=max_iters)')

    def parse(*argv):
        parser = argparse.ArgumentParser()
        add_run_arguments(parser)
        return parser.parse_args([str(config), *argv])

    return parse


def test_defaults(parse):
    cfg = read_run_config(parse())
    assert cfg.work_dir == 'work_dirs/mine'
    assert cfg.launcher == 'none'
    assert cfg.device is None


def test_arguments_go_into_the_config(parse):
    cfg = read_run_config(
        parse(
            *('--work-dir', 'here', '--device', 'cpu', '--launcher', 'slurm'),
            *('--cfg-options', 'max_iters=7'),
        )
    )
    assert (cfg.work_dir, cfg.device, cfg.launcher) == ('here', 'cpu', 'slurm')
    assert cfg.train_cfg.max_iters == 7


def test_torchrun_is_recognised(parse, monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, '0')
    assert read_run_config(parse()).launcher == 'pytorch'
    assert read_run_config(parse('--launcher', 'none')).launcher == 'none'


@pytest.mark.parametrize('error', [ConfigError, FileNotFoundError, ValueError])
def test_mistakes_of_the_user_are_one_line(parse, error, monkeypatch):
    with pytest.raises(SystemExit) as exit_, tool(parse()):
        raise error('class `X` in a/b.py: first\n  second')
    assert exit_.value.code == 'error: first second'
    with pytest.raises(error), tool(parse('--traceback')):
        raise error('first')
    monkeypatch.setenv('RANK', '3')
    rank = r'^\[rank 3\] error: x$'
    with pytest.raises(SystemExit, match=rank), tool(parse()):
        raise error('x')


def too_large_for_torch():
    torch.empty(1 << 60)


def too_large_for_numpy():
    np.empty(1 << 50)


def too_large_for_a_gpu():
    raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9 GiB')


@pytest.mark.parametrize(
    'ask', [too_large_for_torch, too_large_for_numpy, too_large_for_a_gpu]
)
def test_more_memory_than_there_is_names_what_to_change(parse, ask):
    advice = r'^error: out of memory: .*crop_size.*batch_size.*llocate'
    with pytest.raises(SystemExit, match=advice), tool(parse()):
        ask()


@pytest.mark.parametrize('fault', [ZeroDivisionError, RuntimeError])
def test_faults_are_raised(parse, fault):
    with pytest.raises(fault), tool(parse()):
        raise fault


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise ValueError('mask.png: the value 7\nis no class')


def test_error_of_a_worker_is_its_message(parse):
    loader = torch.utils.data.DataLoader(Broken(), num_workers=1)
    with pytest.raises(SystemExit) as exit_, tool(parse()):
        next(iter(loader))
    assert exit_.value.code == 'error: mask.png: the value 7 is no class'


def test_log_file_has_the_traceback(parse, tmp_path):
    log = tmp_path / 'run.log'
    MMLogger.get_instance('command_line', log_file=str(log))
    with pytest.raises(SystemExit), tool(parse()):
        raise ValueError('the reason')
    text = log.read_text()
    assert 'Traceback' in text
    assert 'the reason' in text
