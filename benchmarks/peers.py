"""The libraries that we are measured against, imported when they are needed.

`make test` installs what has no build for a torch without CUDA into a folder
of its own, with torchvision, whose compiled operators cannot load there.
"""

import importlib
import os
import sys
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType

import torch

from .row import MissingPeerError

os.environ.setdefault('KERAS_BACKEND', 'torch')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

EXTRA = Path(sys.prefix) / 'share' / 'upernet_ext_tests'
_INSTALL = {
    'medicai': 'medicai and keras',
    'keras': 'medicai and keras',
    'segmentation_models_pytorch': 'segmentation-models-pytorch, timm and '
    'torchvision',
    'transformers': "'upernet_ext[backbones]'",
    'monai': "'upernet_ext[volumes]'",
}


@cache
def _extra_folder() -> list[torch.library.Library]:
    """Let the folder of `make test` be imported from, once.

    torchvision registers fake kernels for two operators: where its compiled
    ones cannot load they must at least be declared.
    """
    if not EXTRA.is_dir():
        return []
    if str(EXTRA) not in sys.path:
        sys.path.append(str(EXTRA))
    if torch.version.cuda or hasattr(torch.ops.torchvision, 'nms'):
        return []
    library = torch.library.Library('torchvision', 'DEF')
    for name in ('nms', 'qnms'):
        library.define(
            f'{name}(Tensor dets, Tensor scores, float threshold) -> Tensor'
        )
    return [library]


def peer(name: str) -> ModuleType:
    """Import a module of a peer.

    Raises:
        MissingPeerError: It is not installed.
    """
    _extra_folder()
    package = name.split('.')[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            return importlib.import_module(name)
    except ImportError as error:
        raise MissingPeerError(
            f'peer not installed ({error}): pip install '
            f'{_INSTALL[package]}, or use the environment of `make test`'
        ) from error
