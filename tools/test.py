"""Measure a trained model on the test set of a config.

Run: python tools/test.py CONFIG CHECKPOINT
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process

from upernet_ext.config import ConfigError
from upernet_ext.engine.command_line import (
    add_run_arguments,
    read_run_config,
    tool,
)
from upernet_ext.engine.report import write_report
from upernet_ext.registry import RUNNERS


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        'test', description='Print a table a class and write metrics.json.'
    )
    add_run_arguments(parser)
    parser.add_argument('checkpoint', help='a file or an https URL')
    parser.add_argument(
        '--tta', action='store_true', help="test-time augmentation: cfg's tta"
    )
    parser.add_argument(
        '--out',
        type=Path,
        help='a folder for metrics.json (default: the work folder), and for '
        'the predicted label maps (default: not written): labels/, of '
        "volumes files like the images, and nnU-Net's summary.json",
    )
    parser.add_argument(
        '--show-dir',
        type=Path,
        help='a folder for pictures: image | truth | prediction; of volumes '
        'three planes',
    )
    return parser.parse_args(argv)


def configure(cfg: Config, args: argparse.Namespace) -> None:
    """Apply the arguments to the config."""
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.tta:
        if cfg.get('tta') is None:
            raise ConfigError('--tta needs tta=dict(...) in the config')
        cfg.merge_from_dict({'model.test_cfg.tta': cfg.tta})
    if args.show_dir is not None:
        pictures = dict(
            type='upernet_ext.SavePictures',
            num_samples=None,
            out_dir=str(args.show_dir),
        )
        cfg.merge_from_dict({'default_hooks.visualization': pictures})
    if args.out is not None:
        write_labels(cfg, args.out / 'labels')


def write_labels(cfg: Config, folder: Path) -> None:
    """Have a test write its predictions: of volumes, by their metric."""
    evaluators = cfg.test_evaluator
    if isinstance(evaluators, Mapping):
        evaluators = [evaluators]
    for evaluator in evaluators:
        if str(evaluator['type']).endswith('CaseMetric'):
            evaluator['output_dir'] = str(folder)
            return
    hook = dict(type='upernet_ext.SaveLabelMaps', out_dir=str(folder))
    cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]


def main(argv: Sequence[str] | None = None) -> None:
    """Test."""
    args = parse_arguments(argv)
    with tool(args):
        cfg = read_run_config(args)
        configure(cfg, args)
        runner = RUNNERS.build(cfg)
        metrics = runner.test()
        if is_main_process():
            write_report(
                Path(args.out or runner.work_dir, 'metrics.json'),
                runner,
                metrics,
                config=args.config,
                checkpoint=args.checkpoint,
                tta=args.tta,
            )


if __name__ == '__main__':
    main()
