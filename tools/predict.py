"""Segment with a trained model; its config travels in the checkpoint.

Run: python tools/predict.py CHECKPOINT [CHECKPOINT ...] FILE|FOLDER|GLOB
         --out DIR
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from upernet_ext.apis import init_model, predict_files
from upernet_ext.engine.command_line import add_arguments, tool


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        'predict',
        description='Write, below DIR, overlays/ with a legend and labels/, '
        'PNGs whose pixel values are the classes. Of volumes (.nii.gz, .nii, '
        ".mha, .nrrd; nnU-Net's case_0000, case_0001 are channels of one "
        'case) labels/ has files like the volumes, with their geometry, and '
        'overlays/ three planes. Subfolders are kept. An image that cannot '
        'be read is named, and the others go on.',
    )
    parser.add_argument(
        'checkpoints',
        nargs='+',
        metavar='checkpoint',
        help='a file or an https URL; the logits of several, such as folds, '
        'are averaged, with all of them in memory',
    )
    parser.add_argument('images', help='a file, a folder or a pattern')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR')
    parser.add_argument('--opacity', type=float, default=0.5)
    add_arguments(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Predict."""
    args = parse_arguments(argv)
    with tool(args):
        predict_files(
            init_model(
                args.checkpoints,
                device=args.device,
                cfg_options=args.cfg_options,
            ),
            args.images,
            args.out,
            opacity=args.opacity,
        )


if __name__ == '__main__':
    main()
