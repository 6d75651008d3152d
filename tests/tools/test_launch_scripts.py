"""The command lines that the shell scripts make."""

import os
import shlex

import pytest

from upernet_ext.config import config_folder

TORCHRUN = '-m torch.distributed.run'


@pytest.fixture
def command_of(project, tmp_path):
    """Run a script with ``echo`` in place of python and of srun."""
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho srun "$@"\n')
    srun.chmod(0o755)

    def command_of(script, *arguments, **variables):
        path = f'{tmp_path}:{os.environ["PATH"]}'
        done = project.run(
            script, *arguments, PYTHON='echo', PATH=path, **variables
        )
        return done.stdout.strip()

    return command_of


def test_training_on_one_machine(command_of):
    line = command_of('dist_train.sh', 'a b.py', 4, '--cfg-options', 'x=1')
    head, _, tail = line.partition('/tools/train.py ')
    assert head.startswith(f'{TORCHRUN} --standalone --nproc-per-node 4 /')
    assert tail == 'a b.py --cfg-options x=1 --launcher pytorch'


def test_gpus_alone_train_the_flagship(command_of):
    line = command_of('dist_train.sh', 8, '--amp')
    assert ' --nproc-per-node 8 ' in line
    config, *rest = shlex.split(line.partition('/tools/train.py ')[2])
    assert rest == ['--amp', '--launcher', 'pytorch']
    assert (config_folder() / f'{config}.py').is_file()


def test_several_machines(command_of):
    line = command_of(
        *('dist_test.sh', 'a.py', 'a.pth', 2),
        **dict(NNODES='3', NODE_RANK='1', MASTER_ADDR='node0', PORT='1234'),
    )
    assert line.startswith(
        f'{TORCHRUN} --nnodes 3 --node-rank 1 --master-addr node0 '
        '--master-port 1234 --nproc-per-node 2 /'
    )
    assert line.endswith('/tools/test.py a.py a.pth --launcher pytorch')


def test_slurm_asks_for_one_task_a_gpu(command_of):
    line = command_of('slurm_train.sh', 'part', 'a.py', '--seed', 1, GPUS='16')
    assert line.startswith(
        'srun --partition part --job-name train --ntasks 16 --cpus-per-task 5 '
        '--gres gpu:8 --ntasks-per-node 8 '
    )
    assert line.endswith('/tools/train.py a.py --seed 1 --launcher slurm')
    line = command_of(
        *('slurm_test.sh', 'part', 'a.py', 'a.pth'),
        **dict(GPUS='2', GPUS_PER_NODE='0', SRUN_ARGS='--time 1 --mem 2'),
    )
    assert '--gres' not in line
    assert ' --time 1 --mem 2 ' in line
    assert '/tools/test.py a.py a.pth --launcher slurm' in line


@pytest.mark.parametrize(
    ('script', 'arguments'),
    [
        ('dist_train.sh', ['a.py']),
        ('dist_test.sh', ['a.py', '2']),
        ('slurm_train.sh', ['part']),
        ('slurm_test.sh', ['part', 'a.py']),
    ],
)
def test_too_few_arguments_show_the_usage(project, script, arguments):
    done = project.run(script, *arguments, code=2)
    assert done.stderr.startswith(f'usage: {script} ')
