"""Importing this module imports mmseg, without its noise.

mmseg prints a line for each part that needs OneDL, a dataset service, or
torchvision, and mmcv warns that its compiled MultiScaleDeformableAttention is
missing. This package uses none of them. Whatever else is said gets through.
"""

import contextlib
import importlib
import io
import sys
import warnings


def _import_quietly(module: str, noise: str) -> None:
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            importlib.import_module(module)
    finally:
        for line in said.getvalue().splitlines(keepends=True):
            if line.strip() != noise:
                sys.stdout.write(line)


warnings.filterwarnings(
    'ignore', 'Fail to import .*MultiScaleDeformableAttention', UserWarning
)
_import_quietly('mmseg.datasets', 'Could not import OneDL')
