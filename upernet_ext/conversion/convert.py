"""Convert a model, write it, read it back and compare."""

import copy
import logging
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from safetensors.torch import save_file
from torch import Tensor

from ..config import ConfigError
from ..interop import WeightsError, read_checkpoint
from ..models import EncoderDecoder
from ..models.tuning import adapted_layers
from .comparison import Comparison, Peer, compare
from .sources import Source, our_peer, read_source
from .to_mmseg import (
    build_mmseg,
    build_mmseg_backbone,
    mmseg_backbone,
    to_mmseg,
)
from .to_timm import build_timm, to_timm
from .to_transformers import read_transformers, save_transformers

_SIZE = 96
# Of the outputs' standard deviation; rounding is far below it.
_TOLERANCE = 1e-3


def convert(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    *,
    to: str,
    config: str | os.PathLike | None = None,
) -> Comparison | None:
    """Convert a segmentor or a backbone, and check the numbers.

    Low-rank adapters are merged for other libraries, and kept for ours.

    Args:
        source: See ``read_source``.
        destination: What to write: a folder for ``'transformers'``; for
            ``'upernet_ext'`` a folder (segmentors) or a ``.safetensors`` file
            (backbones); for ``'mmseg'`` a ``.pth`` file, beside which its
            config is written as ``.py``; for ``'timm'`` a ``.safetensors``
            file, of the backbone.
        to: One of ``TARGETS``.
        config: See ``read_source``.

    Returns:
        What the source's and the destination's own model, read back from
        what was written, compute on a random input; ``None`` where the
        library that it needs is not installed.

    Raises:
        ConfigError: Nothing says what to build, or the destination has no
            counterpart.
        WeightsError: The weights do not fit, or the numbers differ.
    """
    if to not in TARGETS:
        raise ConfigError(f'--to must be one of {list(TARGETS)}, got {to!r}')
    read = read_source(source, config=config)
    print_log(read.receipt.summary(), logger='current')
    destination = Path(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    if to != 'upernet_ext' and any(adapted_layers(read.model)):
        read.model.merge_lora()
    if to == 'timm' and hasattr(read.model, 'backbone'):
        read = _backbone_of(read)
    with torch.no_grad():
        target = TARGETS[to](read, destination)
    if target is None:
        print_log(
            f'{destination} written; its NUMBERS WERE NOT CHECKED: {to} is '
            'not installed, or has no model by a name that we know',
            logger='current',
            level=logging.WARNING,
        )
        return None
    comparison = compare(read.peer, target, _input_shape(read))
    print_log(comparison.summary(), logger='current')
    if comparison.max_difference > _TOLERANCE * comparison.scale:
        raise WeightsError(
            f'{destination} was written, but does not compute the same: '
            f'{comparison.summary()}; do not use it'
        )
    return comparison


def _backbone_of(read: Source) -> Source:
    backbone = read.model.backbone
    return replace(
        read,
        model=backbone,
        peer=our_peer(backbone),
        config=read.config['backbone'],
    )


def _input_shape(read: Source) -> tuple[int, ...]:
    """Choose an image; for a plain ViT the one it was built for."""
    backbone = getattr(read.model, 'backbone', read.model)
    size = [_SIZE] * getattr(read.model, 'spatial_dims', 2)
    if hasattr(backbone, 'grid') and hasattr(backbone, 'patch_size'):
        pairs = zip(backbone.grid, backbone.patch_size, strict=True)
        size = [cells * patch for cells, patch in pairs]
    return (2, read.in_channels, *size)


def _save(weights: dict[str, Tensor], path: Path) -> None:
    if path.suffix != '.safetensors':
        raise ConfigError(
            f'{path}: weights of a backbone are written as .safetensors'
        )
    save_file(
        {k: v.contiguous() for k, v in weights.items()},
        path,
        metadata={'format': 'pt'},
    )


def _to_ours(read: Source, destination: Path) -> Peer:
    if isinstance(read.model, EncoderDecoder):
        read.model.save_pretrained(destination)
        return our_peer(EncoderDecoder.from_pretrained(destination))
    _save(read.model.state_dict(), destination)
    model = copy.deepcopy(read.model)
    for value in model.state_dict().values():
        value.zero_()
    model.load_state_dict(read_checkpoint(destination)['state_dict'])
    return our_peer(model)


def _to_mmseg(read: Source, destination: Path) -> Peer | None:
    if not isinstance(read.model, EncoderDecoder):
        cfg, style = mmseg_backbone(read.model, read.config)
        _save(style.to_style(read.model.state_dict()), destination)
        weights = read_checkpoint(destination)['state_dict']
        return build_mmseg_backbone(cfg, weights)
    cfg, weights = to_mmseg(read.model)
    meta = dict(dataset_meta=getattr(read.model, 'dataset_meta', None))
    stored = Config(dict(default_scope='mmseg', model=cfg))
    meta['cfg'] = stored.pretty_text
    torch.save(dict(meta=meta, state_dict=weights), destination)
    stored.dump(destination.with_suffix('.py'))
    return build_mmseg(cfg, read_checkpoint(destination)['state_dict'])


def _to_transformers(read: Source, destination: Path) -> Peer | None:
    save_transformers(read.model, destination)
    return read_transformers(destination)


def _to_timm(read: Source, destination: Path) -> Peer | None:
    _save(to_timm(read.model), destination)
    return build_timm(
        read.config,
        read_checkpoint(destination)['state_dict'],
        in_channels=read.in_channels,
    )


# Library -> what writes a model for it, and builds its own from that.
TARGETS: dict[str, Callable[[Source, Path], Peer | None]] = {
    'upernet_ext': _to_ours,
    'mmseg': _to_mmseg,
    'transformers': _to_transformers,
    'timm': _to_timm,
}
