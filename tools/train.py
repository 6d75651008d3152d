"""Train a model.

Run: python tools/train.py CONFIG
     torchrun --nproc-per-node 8 tools/train.py CONFIG
"""

import argparse
import logging
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import find_latest_checkpoint

from upernet_ext.engine.command_line import (
    add_run_arguments,
    read_run_config,
    tool,
)
from upernet_ext.engine.optimizers.amp import use_mixed_precision
from upernet_ext.registry import RUNNERS


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        'train', description='Train a model from a config.'
    )
    add_run_arguments(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='latest',
        metavar='PATH',
        help='continue from a checkpoint; without PATH from the latest in '
        'the work folder, or from the start if there is none yet',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='mixed precision: float16 on a GPU, bfloat16 on the CPU, or '
        'optim_wrapper.dtype',
    )
    parser.add_argument('--seed', type=int, help='for a run that repeats')
    parser.add_argument(
        '--deterministic',
        action='store_true',
        help='slower algorithms whose results repeat to the bit',
    )
    return parser.parse_args(argv)


def resume(cfg: Config, checkpoint: str) -> None:
    """Set where to continue from."""
    if checkpoint == 'latest':
        checkpoint = find_latest_checkpoint(cfg.work_dir)
        if checkpoint is None:
            print_log(
                f'no checkpoint in {cfg.work_dir} to resume from: this run '
                'starts from the beginning',
                logger='current',
                level=logging.WARNING,
            )
            return
    cfg.resume, cfg.load_from = True, checkpoint


def main(argv: Sequence[str] | None = None) -> None:
    """Train."""
    args = parse_arguments(argv)
    with tool(args):
        cfg = read_run_config(args)
        if args.resume is not None:
            resume(cfg, args.resume)
        if args.amp:
            use_mixed_precision(cfg.optim_wrapper)
        randomness = dict(cfg.get('randomness') or {})
        if args.seed is not None:
            randomness['seed'] = args.seed
        if args.deterministic:
            randomness['deterministic'] = True
        cfg.randomness = randomness or dict(seed=None)
        RUNNERS.build(cfg).train()


if __name__ == '__main__':
    main()
