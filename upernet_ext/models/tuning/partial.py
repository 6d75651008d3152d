"""Checkpoints that hold what was trained, and name the weights beside it."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...interop import WeightsError, published_name

# Key in a checkpoint's meta.
BASE = 'base'


def base_names(model: nn.Module) -> list[str]:
    """List the tensors that ``model.backbone.pretrained`` gives back.

    They are frozen and were in the file as they are. What was resampled or
    set while it was loaded, and all buffers, are left to the checkpoint.

    Args:
        model: An ``EncoderDecoder``.

    Raises:
        WeightsError: The backbone was not loaded from ``pretrained``, or
            nothing of it is frozen.
    """
    if model.pretrained is None or model.receipt is None:
        raise WeightsError(
            'a checkpoint of the trained part alone needs a base to come back '
            "to: set model.backbone.pretrained to the backbone's weights, and "
            'do not load a whole model over them'
        )
    changed = {change.name for change in model.receipt.changes}
    unchanged = set(model.receipt.matched) - changed
    names = [
        f'backbone.{name}'
        for name, parameter in model.backbone.named_parameters()
        if not parameter.requires_grad
        and {name, published_name(name)} & unchanged
    ]
    if not names:
        raise WeightsError(
            'nothing of the pretrained backbone is frozen, so a checkpoint of '
            "the trained part is the whole; set model.tuning=dict(type='lora')"
            " or dict(type='freeze', what='all')"
        )
    return names


def digest(state_dict: Mapping[str, Tensor], names: Iterable[str]) -> str:
    """Hash tensors with their published names, types and shapes (SHA-256)."""
    result = hashlib.sha256()
    for name in sorted(names, key=published_name):
        value = state_dict[name].detach().cpu().contiguous()
        kind = f'{published_name(name)} {value.dtype} {tuple(value.shape)}'
        result.update(kind.encode())
        result.update(value.flatten().view(torch.uint8).numpy())
    return result.hexdigest()


def describe_base(model: nn.Module) -> dict[str, Any]:
    """Say what a checkpoint of the trained part leaves out.

    Returns:
        ``source`` of the base weights, the ``names`` that are left out, and
        their ``sha256``.

    Raises:
        WeightsError: See ``base_names``.
    """
    names = base_names(model)
    return dict(
        source=model.receipt.source,
        names=names,
        sha256=digest(model.state_dict(), names),
    )


def complete_weights(
    model: nn.Module, checkpoint: Mapping[str, Any], *, source: str
) -> Mapping[str, Tensor]:
    """Return a checkpoint's weights, with those of its base if it is partial.

    The base is read from ``model.backbone.pretrained``.

    Args:
        model: Of the checkpoint's config; its backbone is loaded where the
            checkpoint is partial.
        checkpoint: From ``interop.read_checkpoint``.
        source: Where it comes from, for messages.

    Raises:
        WeightsError: The base is not there, or is another one.
    """
    state_dict = checkpoint['state_dict']
    base = checkpoint.get('meta', {}).get(BASE)
    if base is None:
        return state_dict
    partial = (
        f'{source} holds what was trained beside the weights '
        f'{base["source"]!r} (sha256 {base["sha256"][:12]}...) alone'
    )
    if getattr(model, 'pretrained', None) is None:
        raise WeightsError(
            f'{partial}; set model.backbone.pretrained to those'
        )
    try:
        model.load_pretrained()
    except FileNotFoundError as error:
        raise WeightsError(
            f'{partial}, and model.backbone.pretrained is not there: {error}'
        ) from error
    own = model.state_dict()
    absent = [name for name in base['names'] if name not in own]
    if absent:
        raise WeightsError(
            f'{partial}, but this model has no {", ".join(absent[:8])}; use '
            'the config that it was trained with'
        )
    found = digest(own, base['names'])
    if found != base['sha256']:
        raise WeightsError(
            f'{partial}, but model.backbone.pretrained={model.pretrained!r} '
            f'holds other weights (sha256 {found[:12]}...); set it to those'
        )
    return {**state_dict, **{name: own[name] for name in base['names']}}
