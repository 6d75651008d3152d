"""Convert a model to another library and back, or show what is in a file.

Run: python tools/convert.py SRC DST --to mmseg|transformers|timm|upernet_ext
     python tools/convert.py --show FILE
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from upernet_ext.conversion import TARGETS, convert, describe
from upernet_ext.engine.command_line import tool


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        'convert',
        description='Convert a whole segmentor or a backbone. Ends with the '
        'largest difference, on random input, between the source and what '
        'was written, read back by its own library.',
    )
    parser.add_argument(
        'source',
        nargs='?',
        metavar='SRC',
        help='a checkpoint, or a folder of transformers or of upernet_ext',
    )
    parser.add_argument(
        'destination',
        nargs='?',
        type=Path,
        metavar='DST',
        help='a folder (upernet_ext, transformers), a .pth file (mmseg) or, '
        'for a backbone alone, a .safetensors file',
    )
    parser.add_argument('--to', choices=TARGETS, help='whose model to write')
    parser.add_argument(
        '--config',
        metavar='CFG',
        help='what SRC is, where it does not say so itself: a config file, '
        'or an encoder of tools/list_models.py',
    )
    parser.add_argument(
        '--show',
        metavar='FILE',
        help='say whose names a file has, what is in it, and its receipt',
    )
    parser.add_argument(
        '--traceback',
        action='store_true',
        help='show where in the code an error comes from',
    )
    args = parser.parse_args(argv)
    if args.show is None and None in (args.source, args.destination, args.to):
        parser.error('give SRC, DST and --to; or --show FILE')
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Convert, or show."""
    args = parse_arguments(argv)
    with tool(args):
        if args.show is not None:
            sys.stdout.write(describe(args.show) + '\n')
        else:
            convert(
                args.source,
                args.destination,
                to=args.to,
                config=args.config,
            )


if __name__ == '__main__':
    main()
