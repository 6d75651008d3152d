"""Train a ViT with UPerNet on an nnU-Net data set, from a YAML file.

Run: python tools/nnunet_train_vit.py 4 2d 0 --config upernet.yaml

Every further argument is one of tools/train.py.
"""

import argparse
import runpy
import tempfile
from collections.abc import Sequence
from pathlib import Path

from upernet_ext.compat.nnunet_yaml import write_config
from upernet_ext.engine.command_line import tool


def main(argv: Sequence[str] | None = None) -> None:
    """Turn the YAML file into a config, and train."""
    parser = argparse.ArgumentParser('nnunet_train_vit', description=__doc__)
    parser.add_argument('dataset', help='number, name or folder')
    parser.add_argument('configuration', choices=('2d', '3d_fullres'))
    parser.add_argument('fold', help="0 to 4, or 'all'")
    parser.add_argument('--config', type=Path, required=True, help='the YAML')
    parser.add_argument('--traceback', action='store_true')
    args, others = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, f'{args.config.stem}.py')
        with tool(args):
            write_config(args.config, config)
        data = (args.dataset, args.configuration, args.fold)
        more = ['--traceback'] if args.traceback else []
        train = runpy.run_path(str(Path(__file__).with_name('train.py')))
        train['main']([str(config), '--nnunet', *data, *more, *others])


if __name__ == '__main__':
    main()
