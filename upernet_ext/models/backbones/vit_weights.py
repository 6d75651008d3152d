"""Fit published ViT weights to a model of another grid, patch or bias.

Each step changes a copy of the state dict and tells what it did. What is not
known to be equivalent stays as it is, and fails when it is loaded.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...interop import Change
from ...layers.patch_embed import (
    resample_patch_embedding,
    resample_position_embedding,
)
from ...layers.relative_position import resample_relative_position

_SHARED_TABLE = 'rel_pos_bias.relative_position_bias_table'


def adapt_vit(
    state_dict: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    grid: Sequence[int],
    antialias: bool = False,
) -> tuple[dict[str, Tensor], list[Change]]:
    """Fit a file's tensors to a model.

    Args:
        state_dict: The file's, under the model's names.
        own: The model's.
        grid: Patches an axis of the model's positions.
        antialias: See ``resample_position_embedding``.

    Returns:
        The fitted state dict, and what was changed.
    """
    state_dict = dict(state_dict)
    changes = [
        *_declared_zeros(state_dict, own),
        *_spread_shared_table(state_dict, own),
        *_resample_patch(state_dict, own),
        *_position_of_class_token(state_dict, own),
        *_resample_positions(state_dict, own, grid, antialias),
        *_resample_tables(state_dict, own, grid),
    ]
    return state_dict, changes


def _change(
    name: str, kind: str, old: Tensor, new: Tensor, why: str
) -> Change:
    return Change(name, kind, tuple(old.shape), tuple(new.shape), why)


def _declared_zeros(
    state_dict: dict[str, Tensor], own: Mapping[str, Tensor]
) -> list[Change]:
    """Set biases that whole families of files leave out because they are 0.

    mmseg's ViT has no bias of the patch projection; timm's DINOv3 has none of
    q and v, which it found to be zero (timm/models/eva.py).
    """
    reasons = {
        r'patch_embed\.proj\.bias$': 'mmseg has no patch bias',
        r'blocks\.\d+\.attn\.[qv]_bias$': "timm leaves DINOv3's zeros out",
    }
    changes = []
    for pattern, why in reasons.items():
        wanted = [name for name in own if re.match(pattern, name)]
        if any(name in state_dict for name in wanted):
            continue
        for name in wanted:
            state_dict[name] = torch.zeros_like(own[name])
            shape = tuple(own[name].shape)
            changes.append(Change(name, 'set', None, shape, f'zero: {why}'))
    return changes


def _spread_shared_table(
    state_dict: dict[str, Tensor], own: Mapping[str, Tensor]
) -> list[Change]:
    """Give each block the table that BEiT's pre-training shares.

    As run_class_finetuning.py of microsoft/unilm does.
    """
    if _SHARED_TABLE in own or _SHARED_TABLE not in state_dict:
        return []
    wanted = [n for n in own if n.endswith(f'.attn.{_SHARED_TABLE}')]
    if not wanted or any(name in state_dict for name in wanted):
        return []
    table = state_dict.pop(_SHARED_TABLE)
    state_dict.update({name: table for name in wanted})
    why = 'the table that all blocks share in the file'
    return [_change(name, 'set', table, table, why) for name in wanted]


def _resample_patch(
    state_dict: dict[str, Tensor], own: Mapping[str, Tensor]
) -> list[Change]:
    name = 'patch_embed.proj.weight'
    old, wanted = state_dict.get(name), own[name].shape
    if old is None or old.ndim != len(wanted) or old.shape[2:] == wanted[2:]:
        return []
    new = state_dict[name] = resample_patch_embedding(old, wanted[2:])
    why = 'least-squares kernel of the other patch size'
    return [_change(name, 'reshaped', old, new, why)]


def _position_of_class_token(
    state_dict: dict[str, Tensor], own: Mapping[str, Tensor]
) -> list[Change]:
    """Put the position of the class token back.

    timm's DINOv2 with registers has added it to the token itself.
    """
    name = 'pos_embed'
    old = state_dict.get(name)
    if old is None or name not in own or 'reg_token' not in state_dict:
        return []
    rank = own['patch_embed.proj.weight'].ndim - 2
    if old.shape == own[name].shape or not _edge(old.shape[1], rank):
        return []
    new = torch.cat([torch.zeros_like(old[:, :1]), old], 1)
    state_dict[name] = new
    why = 'zero: timm has added the position to the class token'
    return [_change(name, 'reshaped', old, new, why)]


def _edge(cells: int, rank: int) -> int:
    """Edge of a square or cube of so many cells; 0 where there is none."""
    edge = round(cells ** (1 / rank))
    return edge if edge**rank == cells else 0


def _resample_positions(
    state_dict: dict[str, Tensor],
    own: Mapping[str, Tensor],
    grid: Sequence[int],
    antialias: bool,
) -> list[Change]:
    name = 'pos_embed'
    old = state_dict.get(name)
    if old is None or name not in own or old.shape == own[name].shape:
        return []
    edge = _edge(old.shape[1] - 1, len(grid))
    if not edge or old.shape[2] != own[name].shape[2]:
        return []  # the receipt will name both shapes
    window = (edge,) * len(grid)
    new = resample_position_embedding(old, window, grid, antialias=antialias)
    state_dict[name] = new
    why = f'from a grid of {window} to {tuple(grid)}'
    return [_change(name, 'resized', old, new, why)]


def _resample_tables(
    state_dict: dict[str, Tensor],
    own: Mapping[str, Tensor],
    grid: Sequence[int],
) -> list[Change]:
    changes = []
    for name, wanted in own.items():
        old = state_dict.get(name)
        if not name.endswith(_SHARED_TABLE) or old is None:
            continue
        if old.shape == wanted.shape or old.shape[1:] != wanted.shape[1:]:
            continue
        # The file's grid of n has 2n - 1 distances an axis, and 3 more rows.
        edge = _edge(old.shape[0] - 3, len(grid))
        if edge % 2:
            window = ((edge + 1) // 2,) * len(grid)
            new = resample_relative_position(old, window, grid)
            state_dict[name] = new
            why = f'from a grid of {window} to {tuple(grid)}'
            changes.append(_change(name, 'resized', old, new, why))
    return changes
