"""Read a checkpoint without running code from it."""

import argparse
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, is_main_process
from mmengine.logging import HistoryBuffer, print_log
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .receipt import WeightsError

# Where published files keep their weights; the first one found wins. DINO,
# iBOT and their kind publish ``teacher``, of which ``student`` is the sketch.
_STATE_DICT_KEYS = (
    *('state_dict', 'model', 'module', 'teacher', 'model_ema'),
    *('state_dict_ema', 'target_encoder', 'student'),
)
# What a folder of transformers may hold, in its own order of preference.
_FOLDER_FILES = (
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)


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
# and the best score, as numpy values; and the command line that DeiT, MAE and
# RETFound store. None of it can run code.
_SAFE_TYPES = [
    argparse.Namespace,
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


def _find(name: str) -> Path:
    """Turn a URL, a folder or a path into a file that is there."""
    if name.startswith(('http://', 'https://')):
        path = _download(name)
    else:
        path = Path(name).expanduser()
    if path.is_dir():
        found = [path / f for f in _FOLDER_FILES if (path / f).is_file()]
        if not found:
            raise FileNotFoundError(
                f'folder {path} holds no weights; expected one of '
                f'{", ".join(_FOLDER_FILES)}'
            )
        return found[0]
    if not path.is_file():
        raise FileNotFoundError(
            f'checkpoint {path} does not exist; give a file, a folder in '
            "transformers' layout or an https URL"
        )
    return path


def _load(path: Path, map_location: str | torch.device) -> dict[str, Any]:
    try:
        if path.suffix == '.safetensors':
            content = load_file(path, device=str(map_location))
        else:
            content = torch.load(
                path, map_location=map_location, weights_only=True
            )
    except pickle.UnpicklingError as error:
        reason = str(error).split('Please file')[0].split('Please use')[0]
        raise WeightsError(
            f'{path} holds more than weights and was refused, because reading '
            f'it could run code: {reason.strip()} Where you trust its source, '
            'save its weights alone, as .safetensors, with the library that '
            'wrote it'
        ) from error
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise WeightsError(
            f'{path} is not a readable checkpoint: {error}'
        ) from error
    if not isinstance(content, dict):
        raise WeightsError(
            f'{path} holds a {type(content).__name__}; expected a dict of '
            'tensors, or one with a state_dict'
        )
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise WeightsError(f'{path} is not JSON: {error}') from error
    if not isinstance(content, dict):
        raise WeightsError(f'{path} holds no JSON object')
    return content


def _load_shards(
    index: Path, name: str, map_location: str | torch.device
) -> dict[str, Tensor]:
    """Read the files that an ``index.json`` names, from beside it."""
    wanted = _read_json(index).get('weight_map')
    if not isinstance(wanted, dict):
        raise WeightsError(
            f'{index} has no weight_map, as the index of a sharded '
            'checkpoint has'
        )
    state_dict = {}
    for shard in sorted(set(wanted.values())):
        if os.path.basename(shard) != shard:
            raise WeightsError(
                f'{index} names {shard!r}, which is not a file beside it'
            )
        if name.startswith(('http://', 'https://')):
            path = _find(f'{name.rpartition("/")[0]}/{shard}')
        else:
            path = _find(str(index.parent / shard))
        state_dict.update(_load(path, map_location))
    missing = sorted(set(wanted) - set(state_dict))
    if missing:
        raise WeightsError(
            f'{index} promises {len(missing)} tensors that its files lack: '
            f'{", ".join(missing[:8])}'
        )
    return state_dict


def _weights_of(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Put the weights under ``state_dict``, wherever they are."""
    for key in _STATE_DICT_KEYS:
        inner = content.get(key)
        if isinstance(inner, dict) and _tensors(inner):
            rest = {k: v for k, v in content.items() if k != key}
            return {**rest, 'state_dict': _tensors(inner)}
    found = _tensors(content)
    if not found:
        raise WeightsError(
            f'{path} holds no tensors: neither by itself nor under one of '
            f'{", ".join(_STATE_DICT_KEYS)}; it has {list(content)[:8]}'
        )
    rest = {k: v for k, v in content.items() if k not in found}
    return {**rest, 'state_dict': found}


def _tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    return {k: v for k, v in content.items() if isinstance(v, Tensor)}


def read_checkpoint(
    source: str | os.PathLike, *, map_location: str | torch.device = 'cpu'
) -> dict[str, Any]:
    """Read weights of any layout, from a file, a folder or a URL.

    ``.pth``, ``.pt``, ``.bin`` and their kind; ``.safetensors``; the
    ``index.json`` of files in several parts; a folder as transformers writes
    it (``config.json`` beside the weights); an ``https://`` address of a file.

    Nothing in the file is executed: tensors, containers, a stored command
    line and the scalars that mmengine stores are all that is accepted
    (``weights_only``).

    Args:
        source: Path or URL.
        map_location: Device of the tensors.

    Returns:
        The checkpoint; ``'state_dict'`` holds the weights wherever the file
        had them, ``'config'`` a folder's ``config.json``, and the file's
        other entries are kept.

    Raises:
        FileNotFoundError: There is no such file.
        WeightsError: The file cannot be read, or would run code.
    """
    name = os.fspath(source)
    path = _find(name)
    if path.suffix == '.json':
        checkpoint = {'state_dict': _load_shards(path, name, map_location)}
    else:
        checkpoint = _weights_of(_load(path, map_location), path)
    config = Path(name).expanduser() / 'config.json'
    if config.is_file():
        checkpoint['config'] = _read_json(config)
        # save_pretrained keeps a checkpoint's meta in its config.
        if isinstance(checkpoint['config'].get('meta'), dict):
            checkpoint['meta'] = checkpoint['config']['meta']
    return checkpoint
