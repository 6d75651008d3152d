"""Turn the YAML of a ViT + UPerNet trainer for nnU-Net into a config.

Run: python tools/from_yaml.py upernet.yaml my_config.py
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from upernet_ext.compat.nnunet_yaml import write_config
from upernet_ext.engine.command_line import tool


def main(argv: Sequence[str] | None = None) -> None:
    """Write the config."""
    parser = argparse.ArgumentParser(
        'from_yaml', description='Turn such a YAML file into a config.'
    )
    parser.add_argument('yaml', type=Path)
    parser.add_argument('config', type=Path, help='the .py file to write')
    parser.add_argument('--traceback', action='store_true')
    args = parser.parse_args(argv)
    with tool(args):
        sys.stdout.write(f'{write_config(args.yaml, args.config)}\n')


if __name__ == '__main__':
    main()
