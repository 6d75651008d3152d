"""Join tensors that another library keeps apart, and split them again."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def join(
    state_dict: Mapping[str, Tensor], parts: Sequence[str], whole: str
) -> dict[str, Tensor]:
    """Concatenate the tensors whose names differ in one part.

    Only where all parts are there with one shape; others keep their names,
    so that loading them fails and names them.

    Args:
        state_dict: Names and tensors.
        parts: Such as ``('.q.', '.k.', '.v.')``, in the order of the result.
        whole: What stands in their place, such as ``'.qkv.'``.
    """
    joined = dict(state_dict)
    for name in state_dict:
        if parts[0] not in name:
            continue
        names = [name.replace(parts[0], part) for part in parts]
        values = [state_dict[n] for n in names if n in state_dict]
        if len(values) < len(parts) or len({v.shape for v in values}) > 1:
            continue
        for old in names:
            del joined[old]
        joined[name.replace(parts[0], whole)] = torch.cat(values)
    return joined


def split(
    state_dict: Mapping[str, Tensor], whole: str, parts: Sequence[str]
) -> dict[str, Tensor]:
    """Undo ``join``: cut the tensors whose names hold ``whole``."""
    apart = {}
    for name, value in state_dict.items():
        if whole not in name:
            apart[name] = value
            continue
        for part, piece in zip(parts, value.chunk(len(parts)), strict=True):
            # Its own memory: files refuse two names for one storage.
            apart[name.replace(whole, part)] = piece.clone()
    return apart
