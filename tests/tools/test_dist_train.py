"""Two CPU processes are one process with twice the batch."""

import json
import socket

import pytest
import torch

from upernet_ext.interop import read_checkpoint

pytestmark = pytest.mark.slow
SEED = ('--seed', 5)


def weights(folder, iteration):
    return dict(
        read_checkpoint(folder / f'iter_{iteration}.pth')['state_dict']
    )


def losses(folder):
    """The logged scalars of every step, of the latest run in a folder."""
    log = max(folder.rglob('scalars.json'))
    lines = map(json.loads, log.read_text().splitlines())
    keys = ('loss', 'decode.loss_ce', 'aux.loss_ce', 'lr')
    return [[s[key] for key in keys] for s in lines if 'loss' in s]


def test_two_processes_equal_twice_the_batch_and_resume(project):
    work = project.folder / 'work_dirs'
    project.run(
        *('train.py', project.config, *SEED, '--work-dir', work / 'one'),
        *('--cfg-options', 'train_dataloader.batch_size=4'),
    )
    two = ('dist_train.sh', project.config, 2, *SEED, '--device', 'cpu')
    project.run(*two, '--work-dir', work / 'two')
    expected, actual = losses(work / 'one'), losses(work / 'two')
    assert len(expected) == 5
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    last = weights(work / 'one', 5)
    torch.testing.assert_close(
        weights(work / 'two', 5), last, rtol=1e-5, atol=1e-6
    )
    # Of three samples, the fourth of which is a repetition.
    pictures = work / 'two' / 'pictures' / 'iter_5'
    assert len(list(pictures.glob('*.png'))) == 3
    moved = max(
        (value - weights(work / 'one', 1)[name]).abs().max()
        for name, value in last.items()
    )
    assert moved > 0.01

    # Two processes that stopped after the third step go on as if they had not.
    for iteration in (4, 5):
        (work / 'two' / f'iter_{iteration}.pth').unlink()
    stopped = work / 'two' / 'iter_3.pth'
    (work / 'two' / 'last_checkpoint').write_text(str(stopped))
    project.run(*two, '--work-dir', work / 'two', '--resume')
    torch.testing.assert_close(
        losses(work / 'two'), expected[3:], rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        weights(work / 'two', 5), last, rtol=1e-5, atol=1e-6
    )
    meta = read_checkpoint(work / 'two' / 'iter_5.pth')['meta']
    assert meta['iter'] == 5
    assert meta['receipt']['source'] == str(stopped)

    # Each of three samples is counted once by two processes: the numbers are
    # those of the validation by one.
    test = (project.config, work / 'one' / 'iter_5.pth', 2, '--device', 'cpu')
    project.run('dist_test.sh', *test, '--out', 'out')
    report = json.loads((project.folder / 'out/metrics.json').read_text())
    assert report['processes'] == 2
    (log,) = (work / 'one').rglob('scalars.json')
    validation = json.loads(log.read_text().splitlines()[-1])
    for name, value in report['metrics'].items():
        assert validation[name] == pytest.approx(value, rel=1e-6)


def test_a_run_leaves_no_thread_to_its_interpreter(project):
    """A thread of gloo that outlives the run aborts it at random."""
    script = project.folder / 'one_rank.py'
    script.write_text(
        'import atexit, pathlib, runpy\n'
        "comm = pathlib.Path('/proc/self/task').glob\n"
        "names = lambda: [p.read_text() for p in comm('*/comm')]\n"
        "gloo = lambda: sum('gloo' in name for name in names())\n"
        "atexit.register(lambda: print('at the end', gloo()))\n"
        f'main = runpy.run_path({str(project.tools / "train.py")!r})["main"]\n'
        'main()\n'
        "print('after the run', gloo())\n"
    )
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    done = project.run(
        *(script, project.config, *SEED, '--device', 'cpu'),
        *('--work-dir', 'one_rank'),
        **dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1'),
        **dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port)),
    )
    assert 'after the run 3' in done.stdout
    assert 'at the end 0' in done.stdout
