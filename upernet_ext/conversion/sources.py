"""Read a model of any library, as ours and as what it was."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from ..config import ConfigError, load_config
from ..engine.checkpoint_config import checkpoint_config
from ..interop import load_segmentor, read_checkpoint
from ..interop.pretrained import load_backbone
from ..interop.receipt import Receipt
from ..models import EncoderDecoder
from ..models.backbones import build_backbone
from ..models.backbones.encoders import ENCODERS, find_encoder
from ..models.segmentors.saved_model import check_types
from ..models.tuning.partial import complete_weights
from ..registry import MODELS
from .comparison import Peer
from .to_mmseg import build_mmseg, from_mmseg_config
from .to_transformers import from_upernet_config, read_transformers


@dataclass(frozen=True)
class Source:
    """A model that was read.

    Attributes:
        model: As ours: a segmentor, or a backbone.
        peer: What the destination is compared with: the library's own model
            where it is installed, else ours.
        receipt: Of the weights in ours.
        config: What it was built from.
        in_channels: Of the images.
    """

    model: nn.Module
    peer: Peer
    receipt: Receipt
    config: Mapping[str, Any]
    in_channels: int = 3


def our_peer(model: nn.Module) -> Peer:
    """Run a segmentor of ours for its logits, or a backbone for its maps."""
    model.train(False)
    if hasattr(model, 'encode_decode'):
        return Peer('upernet_ext', model, lambda x: [model.encode_decode(x)])
    return Peer('upernet_ext', model, lambda x: list(model(x)))


def build(cfg: Mapping[str, Any]) -> nn.Module:
    """Build a segmentor from its config."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(ConfigDict(cfg))


def read_source(
    source: str | os.PathLike, *, config: str | os.PathLike | None = None
) -> Source:
    """Read a segmentor or a backbone, whose names are found out.

    Args:
        source: A folder that ``save_pretrained`` of ours or of transformers
            wrote, a checkpoint with its config inside, or any file of
            weights, with ``config``.
        config: A config file of a segmentor (ours or mmseg's), or the name
            of an encoder of ``list_encoders()``: what to build.

    Raises:
        ConfigError: Nothing says what to build.
        WeightsError: The weights do not fit.
    """
    checkpoint = read_checkpoint(source)
    stored = checkpoint.get('config', {})
    if config is None and stored.get('library') == 'upernet_ext':
        model = EncoderDecoder.from_pretrained(source)
        return _segmentor(model, model.receipt)
    if config is not None and str(config) in ENCODERS:
        return _backbone(str(config), checkpoint, source)
    if stored.get('model_type') is not None:
        return _transformers(stored, source, config)
    if config is None:
        cfg = checkpoint_config(checkpoint, os.fspath(source))
        check_types(cfg.model, source=os.fspath(source))
    elif Path(config).suffix == '.py':
        cfg = _read_config(config)
    else:
        raise ConfigError(
            f'--config {config} is neither a config file (.py) nor one of '
            'the encoders of tools/list_models.py'
        )
    return _configured(cfg, checkpoint, source)


def _read_config(path: str | os.PathLike) -> Config:
    """Read ours with all checks, mmseg's as mmengine does."""
    cfg = Config.fromfile(path)
    ours = str(cfg.model.type).startswith('upernet_ext.')
    return load_config(path) if ours else cfg


def _segmentor(
    model: nn.Module, receipt: Receipt, peer: Peer | None = None
) -> Source:
    given = model.init_arguments
    return Source(
        model,
        peer or our_peer(model),
        receipt,
        given,
        given.get('in_channels', 3),
    )


def _configured(
    cfg: Config, checkpoint: Mapping[str, Any], source: str | os.PathLike
) -> Source:
    name = os.fspath(source)
    ours = str(cfg.model.type).startswith('upernet_ext.')
    model = build(cfg.model if ours else from_mmseg_config(cfg.model))
    state_dict = complete_weights(model, checkpoint, source=name)
    peer = None
    theirs = _mmseg_config_in(cfg, checkpoint, name)
    if theirs is not None:
        peer = build_mmseg(_with_scope(theirs), state_dict)
    dataset_meta = checkpoint.get('meta', {}).get('dataset_meta')
    if dataset_meta is not None:
        model.dataset_meta = dataset_meta
    if any(k.startswith('decode_head.') for k in state_dict):
        model.receipt = load_segmentor(model, state_dict, source=name)
        return _segmentor(model, model.receipt, peer)
    receipt = load_backbone(model.backbone, state_dict, source=name)
    return Source(
        model.backbone,
        our_peer(model.backbone),
        receipt,
        model.init_arguments['backbone'],
        model.init_arguments.get('in_channels', 3),
    )


def _mmseg_config_in(
    cfg: Config, checkpoint: Mapping[str, Any], name: str
) -> Mapping[str, Any] | None:
    """Find the config of mmseg's model, in what was given or in the file."""
    if 'cfg' in checkpoint.get('meta', {}):
        cfg = checkpoint_config(checkpoint, name)
        check_types(cfg.model, source=name)
    ours = str(cfg.model.type).startswith('upernet_ext.')
    return None if ours else cfg.model


def _with_scope(cfg: Mapping[str, Any]) -> dict[str, Any]:
    kind = str(cfg['type'])
    return dict(cfg, type=kind if '.' in kind else f'mmseg.{kind}')


def _backbone(
    name: str, checkpoint: Mapping[str, Any], source: str | os.PathLike
) -> Source:
    entry = find_encoder(name, spatial_dims=2)
    backbone, _ = build_backbone(
        dict(entry.backbone), in_channels=3, spatial_dims=2
    )
    receipt = load_backbone(
        backbone, checkpoint['state_dict'], source=os.fspath(source)
    )
    return Source(backbone, our_peer(backbone), receipt, entry.backbone)


def _transformers(
    stored: Mapping[str, Any],
    source: str | os.PathLike,
    config: str | os.PathLike | None,
) -> Source:
    if stored['model_type'] != 'upernet':
        raise ConfigError(
            f"{source} holds a backbone of transformers' type "
            f'{stored["model_type"]!r}; name the encoder that it is with '
            '--config, one of tools/list_models.py'
        )
    peer = read_transformers(source)
    theirs = peer.module
    if config is None:
        model = build(from_upernet_config(theirs.config))
    else:
        model = build(load_config(config).model)
    names = theirs.config.id2label
    model.dataset_meta = dict(classes=[names[i] for i in sorted(names)])
    model.receipt = load_segmentor(
        model, theirs.state_dict(), source=os.fspath(source)
    )
    return _segmentor(model, model.receipt, peer)
