"""Print a config as a run gets it.

Run: python tools/print_config.py CONFIG [--nnunet 4 3d_fullres 0]
"""

import argparse
import sys
from collections.abc import Sequence

from upernet_ext.engine.command_line import (
    add_config_arguments,
    read_config,
    tool,
)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the config with its bases, overrides and planned numbers."""
    parser = argparse.ArgumentParser('print_config', description=__doc__)
    add_config_arguments(parser)
    args = parser.parse_args(argv)
    with tool(args):
        sys.stdout.write(read_config(args).pretty_text)


if __name__ == '__main__':
    main()
