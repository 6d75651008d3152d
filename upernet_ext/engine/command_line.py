"""What the tools share: arguments, the config they make, and errors."""

import argparse
import atexit
import gc
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from mmengine.config import Config, DictAction
from mmengine.logging import MMLogger
from torch import distributed

from .planned_config import load_planned_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that every tool takes."""
    parser.add_argument(
        '--device',
        choices=('cpu', 'cuda'),
        help='default: a GPU where there is one',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='set keys of the config: model.backbone.drop_path_rate=0.2',
    )
    parser.add_argument(
        '--traceback',
        action='store_true',
        help='show where in the code an error comes from',
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which config, and ``add_arguments``'s."""
    parser.add_argument('config', help='a config file, or the name of one')
    parser.add_argument(
        '--nnunet',
        nargs=3,
        metavar=('DATASET', 'CONFIGURATION', 'FOLD'),
        help='4 3d_fullres 0: which data a config for nnU-Net datasets reads',
    )
    add_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of a run from a config."""
    parser.add_argument(
        '--work-dir',
        type=Path,
        help='for logs and checkpoints; default: work_dirs/<config name>, or '
        "nnU-Net's folder of results",
    )
    parser.add_argument(
        '--launcher',
        choices=('none', 'pytorch', 'slurm'),
        help='what started the processes; default: pytorch under torchrun',
    )
    add_config_arguments(parser)


def read_config(args: argparse.Namespace) -> Config:
    """Read the config that ``add_config_arguments`` names, and plan its data.

    Raises:
        ValueError: See ``load_planned_config``.
    """
    overrides = dict(args.cfg_options or {})
    if args.nnunet is not None:
        names = ('dataset', 'configuration', 'fold')
        values = (int(v) if v.isdigit() else v for v in args.nnunet)
        overrides['nnunet'] = dict(zip(names, values, strict=True))
    return load_planned_config(args.config, overrides=overrides)


def read_run_config(args: argparse.Namespace) -> Config:
    """Make the config of a run from its arguments.

    Raises:
        ValueError: See ``load_planned_config``.
    """
    cfg = read_config(args)
    if args.work_dir is not None:
        cfg.work_dir = str(args.work_dir)
    elif cfg.get('work_dir') is None:
        cfg.work_dir = str(Path('work_dirs', Path(cfg.filename).stem))
    torchrun = {'RANK', 'LOCAL_RANK', 'WORLD_SIZE'} <= os.environ.keys()
    cfg.launcher = args.launcher or ('pytorch' if torchrun else 'none')
    cfg.device = args.device or cfg.get('device')
    return cfg


@contextmanager
def tool(args: argparse.Namespace) -> Iterator[None]:
    """Run a tool: a mistake of its user ends it with one line.

    Such mistakes are ``ValueError`` (of a config, weights or data),
    ``FileNotFoundError``, and more memory than there is. The log file of the
    run, where there is one already, has the traceback. Any other error is a
    fault and is raised.

    Raises:
        SystemExit: With status 1, after the line went to stderr.
    """
    try:
        yield
    except (
        *(ValueError, FileNotFoundError),
        *(MemoryError, RuntimeError),  # torch's, of a GPU and of the CPU
    ) as error:
        fault = isinstance(error, RuntimeError) and not _lacks_memory(error)
        if args.traceback or fault:
            raise
        _log_traceback(error)
        sys.exit(f'{_rank()}error: {_message(error)}')
    if distributed.is_initialized():
        atexit.register(_leave_processes)


def _leave_processes() -> None:
    """Leave the other processes when the run's objects are gone.

    A thread of gloo may still hold the tensors of the last exchange. It is
    joined when the group's last owner goes, the model that ran in parallel;
    left running, it would ask an interpreter that is shutting down to
    release them, and abort the process.
    """
    distributed.destroy_process_group()
    gc.collect()


def _rank() -> str:
    rank = os.environ.get('RANK', '0')
    return '' if rank == '0' else f'[rank {rank}] '


def _lacks_memory(error: Exception) -> bool:
    return (
        isinstance(error, (MemoryError, torch.OutOfMemoryError))
        or 'allocate memory' in str(error)  # torch's allocator of the CPU
    )


def _message(error: Exception) -> str:
    message = str(error)
    if 'Original Traceback' in message:
        # Of a dataloader's worker: the message follows its traceback.
        message = re.split(r'\n[\w.]*(?:Error|Exception): ', message)[-1]
    # The registry says first which class was being built.
    message = re.sub(r'^class `\w+` in \S+: ', '', message)
    if _lacks_memory(error):
        message = (
            'out of memory: use smaller images or patches (crop_size), fewer '
            f'at a time (batch_size), or --amp ({message})'
        )
    return ' '.join(message.split())


def _log_traceback(error: Exception) -> None:
    info = (type(error), error, error.__traceback__)
    record = logging.LogRecord(
        'upernet_ext', logging.ERROR, __file__, 0, str(error), None, info
    )
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.emit(record)
