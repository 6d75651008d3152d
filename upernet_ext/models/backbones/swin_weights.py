"""Fit published Swin weights to another window, and to volumes.

Each step changes a copy of the state dict and tells what it did. What is not
known to be equivalent stays as it is, and fails when it is loaded.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ...interop import Change
from ...layers.rank import resize_smooth


def adapt_swin(
    state_dict: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    *,
    window: Sequence[int],
) -> tuple[dict[str, Tensor], list[Change]]:
    """Fit a file's tensors to a model.

    In a volume of equal slices the fitted ones compute what they compute in
    an image. The kernel of the patches is left to whoever inflates plain
    convolutions.

    Args:
        state_dict: The file's, under the model's names.
        own: The model's.
        window: Tokens an axis of the model's windows.

    Returns:
        The fitted state dict, and what was changed.
    """
    adapted, changes = dict(state_dict), []
    kernel = state_dict.get('patch_embed.proj.weight')
    rank = len(window) if kernel is None else kernel.ndim - 2
    for name, old in state_dict.items():
        wanted = own[name].shape if name in own else old.shape
        # The receipt will name the shapes of what is left.
        if old.shape == wanted or rank > len(window):
            continue
        new, kind, why = old, 'reshaped', ''
        if name.endswith('.relative_position_bias_table'):
            new, kind, why = _fit_table(old, wanted[0], window, rank)
        elif '.downsample.' in name and rank < len(window):
            new, why = _repeat(old, wanted[-1])
        elif name.endswith('.cpb_mlp.0.weight') and rank < len(window):
            new, why = _ignore_depth(old)
        if new.shape == wanted:
            adapted[name] = new
            shapes = tuple(old.shape), tuple(wanted)
            changes.append(Change(name, kind, *shapes, why))
    return adapted, changes


def _fit_table(
    table: Tensor, rows: int, window: Sequence[int], rank: int
) -> tuple[Tensor, str, str]:
    """Resample a table to the window, and repeat it along the depth.

    Bicubic in 2D, as the authors' ``load_pretrained`` (utils.py).

    Args:
        table: The file's, of a square or cubic window: ``(distances, heads)``.
        rows: Distances that are wanted.
        window: Tokens an axis of the model's.
        rank: Axes of the file's.
    """
    edge = round(len(table) ** (1 / rank))
    if edge**rank != len(table):
        return table, '', ''
    field = table.T.unflatten(1, (edge,) * rank)[None]
    edges = [2 * tokens - 1 for tokens in window[-rank:]]
    same = edges == [edge] * rank
    if not same:
        field = resize_smooth(field.float(), edges).to(table.dtype)
    new = field[0].flatten(1).T.repeat(rows // math.prod(edges), 1)
    if same:
        return new, 'reshaped', 'one bias for every distance along the depth'
    old = ((edge + 1) // 2,) * rank
    return new, 'resized', f'from a window of {old} to {tuple(window)}'


def _repeat(value: Tensor, size: int) -> tuple[Tensor, str]:
    """Join slices as well: the mean of what each alone would give."""
    slices = max(1, size // value.shape[-1])
    new = torch.cat([value] * slices, -1)
    if value.ndim == 2:
        new = new / slices
    return new, f'repeated for {slices} slices'


def _ignore_depth(value: Tensor) -> tuple[Tensor, str]:
    """Give the bias's MLP the distance along the depth, with weight 0."""
    zeros = torch.zeros_like(value[:, :1])
    return torch.cat([zeros, value], 1), 'zero: an image has no depth'
