"""Read a checkpoint without running code from it."""

import os
import pickle
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, is_main_process
from mmengine.logging import HistoryBuffer, print_log
from safetensors import SafetensorError
from safetensors.torch import load_file

from .receipt import WeightsError

# Where published files keep their weights; the first one found wins.
_STATE_DICT_KEYS = ('state_dict', 'model', 'module', 'teacher')


def _history_method(owner: type, name: str) -> Any:
    """Stand in for ``getattr`` while unpickling.

    A ``HistoryBuffer`` pickles its statistics (mean, min, ...) as
    ``getattr(HistoryBuffer, 'mean')``. That is all this one looks up.
    """
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(
            f'getattr({owner!r}, {name!r}) is not part of a checkpoint'
        )
    return getattr(owner, name)


# torch's unpickler finds an allowed callable by its module and name.
_history_method.__module__ = 'builtins'
_history_method.__name__ = _history_method.__qualname__ = 'getattr'

# What mmengine writes beside the tensors: the history of the logged scalars
# and the best score, as numpy values. None of it can run code.
_SAFE_TYPES = [
    HistoryBuffer,
    _history_method,
    slice,
    np.ndarray,
    np.dtype,
    np._core.multiarray.scalar,
    np._core.multiarray._reconstruct,
    *{type(np.dtype(c)) for c in '?bhilqBHILQefd'},
]
torch.serialization.add_safe_globals(_SAFE_TYPES)


def _download(url: str) -> Path:
    """Fetch a file once, on the first rank, into torch's hub folder."""
    name = '_'.join(urlparse(url).path.strip('/').split('/')[-4:])
    target = Path(torch.hub.get_dir()) / 'checkpoints' / name
    if not target.exists() and is_main_process():
        target.parent.mkdir(parents=True, exist_ok=True)
        print_log(f'Downloading {url} to {target}', logger='current')
        try:
            torch.hub.download_url_to_file(url, str(target))
        except OSError as error:
            raise WeightsError(
                f'cannot download {url} ({error}); fetch it by other means '
                f'and save it as {target}'
            ) from error
    barrier()
    return target


def read_checkpoint(
    source: str | os.PathLike, *, map_location: str | torch.device = 'cpu'
) -> dict[str, Any]:
    """Read ``.pth`` or ``.safetensors``, from a file or an ``https://`` URL.

    Nothing in the file is executed: tensors, containers, and the scalars that
    mmengine stores are all that is accepted (``weights_only``).

    Args:
        source: Path or URL.
        map_location: Device of the tensors.

    Returns:
        The checkpoint; ``'state_dict'`` holds the weights wherever the file
        had them, and the file's other entries are kept.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: The file cannot be read, or would run code.
    """
    name = os.fspath(source)
    if name.startswith(('http://', 'https://')):
        path = _download(name)
    else:
        path = Path(name).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f'checkpoint {path} does not exist; give a file or an https URL'
        )
    try:
        if path.suffix == '.safetensors':
            checkpoint = load_file(path, device=str(map_location))
        else:
            checkpoint = torch.load(
                path, map_location=map_location, weights_only=True
            )
    except pickle.UnpicklingError as error:
        reason = str(error).split('Please file')[0]
        raise WeightsError(
            f'{path} holds more than weights and was refused, because reading '
            f'it could run code: {reason.strip()}'
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(
            f'{path} is not a readable checkpoint: {error}'
        ) from error
    if not isinstance(checkpoint, dict):
        raise WeightsError(
            f'{path} holds a {type(checkpoint).__name__}; expected a dict of '
            'tensors, or one with a state_dict'
        )
    for key in _STATE_DICT_KEYS:
        if isinstance(checkpoint.get(key), dict):
            rest = {k: v for k, v in checkpoint.items() if k != key}
            return {**rest, 'state_dict': checkpoint[key]}
    return {'state_dict': checkpoint}
