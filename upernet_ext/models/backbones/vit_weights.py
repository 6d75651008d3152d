"""Fit published ViT weights to a model of another grid, patch, bias or rank.

Each step changes a copy of the state dict and tells what it did. What is not
known to be equivalent stays as it is, and fails when it is loaded.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...interop import Change, WeightsError
from ...interop.inflate import inflate_kernel
from ...layers.patch_embed import (
    resample_patch_embedding,
    resample_position_embedding,
)
from ...layers.relative_position import (
    resample_relative_position,
    tile_relative_position,
)

_PATCH = 'patch_embed.proj.weight'
_DEPTH = 'z_pos_embed'
_SHARED_TABLE = 'rel_pos_bias.relative_position_bias_table'


def adapt_vit(
    state_dict: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    grid: Sequence[int],
    plane: Sequence[int],
    antialias: bool = False,
) -> tuple[dict[str, Tensor], list[Change]]:
    """Fit a file's tensors to a model.

    Args:
        state_dict: The file's, under the model's names.
        own: The model's.
        grid: Patches an axis of the model's positions.
        plane: The axes of them that its position embedding has: all, or of
            an inflated model those of an image.
        antialias: See ``resample_position_embedding``.

    Returns:
        The fitted state dict, and what was changed.

    Raises:
        WeightsError: Weights for images, and a model for volumes that is not
            inflated; or the other way round.
    """
    state_dict = dict(state_dict)
    inflate = _is_for_images(state_dict, own)
    changes = [
        *_declared_zeros(state_dict, own, inflate),
        *_spread_shared_table(state_dict, own),
        *_resample_patch(state_dict, own),
        *_position_of_class_token(state_dict, own, len(plane)),
        *_resample_positions(state_dict, own, plane, antialias),
        *_resample_depth(state_dict, own),
        *_resample_tables(state_dict, own, grid, inflate),
    ]
    return state_dict, changes


def _is_for_images(
    state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> bool:
    """Tell that a file for images is to be loaded into a model for volumes."""
    kernel = state_dict.get(_PATCH)
    if kernel is None or own[_PATCH].ndim == 4 or kernel.ndim not in (4, 5):
        return False
    images, inflated = kernel.ndim == 4, _DEPTH in own
    if inflated != (images or _DEPTH in state_dict):
        shape = tuple(kernel.shape)
        raise WeightsError(
            f'{_PATCH} {shape} is of a ViT that '
            + ('is for images' if images else 'was built for volumes')
            + f', which a model of inflated={inflated} cannot be: set '
            f'backbone.inflated={not inflated}'
        )
    return images


def _change(
    name: str, kind: str, old: Tensor, new: Tensor, why: str
) -> Change:
    return Change(name, kind, tuple(old.shape), tuple(new.shape), why)


def _declared_zeros(
    state_dict: dict[str, Tensor], own: Mapping[str, Tensor], inflate: bool
) -> list[Change]:
    """Set what whole families of files leave out because it is 0.

    mmseg's ViT has no bias of the patch projection; timm's DINOv3 has none of
    q and v, which it found to be zero (timm/models/eva.py); an image has no
    depth.
    """
    reasons = {
        r'patch_embed\.proj\.bias$': 'mmseg has no patch bias',
        r'blocks\.\d+\.attn\.[qv]_bias$': "timm leaves DINOv3's zeros out",
    }
    if inflate:
        reasons[f'{_DEPTH}$'] = 'an image has no depth'
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
    old, size = state_dict.get(_PATCH), own[_PATCH].shape[2:]
    if old is None or old.shape[2:] == size:
        return []
    if not 4 <= old.ndim <= 2 + len(size):
        return []  # the receipt will name both shapes
    new = resample_patch_embedding(old, size[2 - old.ndim :])
    why = ['least-squares kernel of the other patch size'] * (new is not old)
    if new.ndim < 2 + len(size):
        new = inflate_kernel(new, size[0], 'mean')
        why.append(f'inflated: the mean over {size[0]} slices')
    state_dict[_PATCH] = new
    return [_change(_PATCH, 'reshaped', old, new, ', '.join(why))]


def _position_of_class_token(
    state_dict: dict[str, Tensor], own: Mapping[str, Tensor], rank: int
) -> list[Change]:
    """Put the position of the class token back.

    timm's DINOv2 with registers has added it to the token itself.
    """
    name = 'pos_embed'
    old = state_dict.get(name)
    if old is None or name not in own or 'reg_token' not in state_dict:
        return []
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


def _resample_depth(
    state_dict: dict[str, Tensor], own: Mapping[str, Tensor]
) -> list[Change]:
    old = state_dict.get(_DEPTH)
    if old is None or _DEPTH not in own or old.shape == own[_DEPTH].shape:
        return []
    depths = (old.shape[1], 1), (own[_DEPTH].shape[1], 1)
    new = state_dict[_DEPTH] = resample_position_embedding(old, *depths, 0)
    why = f'from {old.shape[1]} patches along z to {new.shape[1]}'
    return [_change(_DEPTH, 'resized', old, new, why)]


def _resample_tables(
    state_dict: dict[str, Tensor],
    own: Mapping[str, Tensor],
    grid: Sequence[int],
    inflate: bool,
) -> list[Change]:
    plane = grid[-2:] if inflate else grid
    changes = []
    for name, wanted in own.items():
        old = state_dict.get(name)
        if not name.endswith(_SHARED_TABLE) or old is None:
            continue
        same = old.shape == wanted.shape and not inflate
        if same or old.shape[1:] != wanted.shape[1:]:
            continue
        # The file's grid of n has 2n - 1 distances an axis, and 3 more rows.
        edge = _edge(old.shape[0] - 3, len(plane))
        if edge % 2:
            window = ((edge + 1) // 2,) * len(plane)
            new = resample_relative_position(old, window, plane)
            if inflate:
                new = tile_relative_position(new, grid[0])
            state_dict[name] = new
            why = f'from a grid of {window} to {tuple(grid)}'
            changes.append(_change(name, 'resized', old, new, why))
    return changes
