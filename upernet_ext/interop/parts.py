"""The parts of a segmentor, which each have names of their own."""

from collections.abc import Callable, Mapping

from torch import Tensor

from .key_style import StateDict

PARTS = ('backbone', 'neck', 'decode_head', 'auxiliary_head')
Rename = Callable[[StateDict], dict[str, Tensor]]


def split_parts(state_dict: StateDict) -> dict[str, dict[str, Tensor]]:
    """Take a segmentor's state dict apart, without the parts' prefixes.

    What is in no part comes under ``''``.
    """
    parts = {part: {} for part in (*PARTS, '')}
    for name, value in state_dict.items():
        part, _, inside = name.partition('.')
        if part in PARTS:
            parts[part][inside] = value
        else:
            parts[''][name] = value
    return parts


def convert_parts(
    state_dict: StateDict, maps: Mapping[str, Rename]
) -> dict[str, Tensor]:
    """Rename each part of a segmentor by its own map.

    Args:
        state_dict: Of the whole model.
        maps: Part -> its map; parts without one keep their names.
    """
    converted = {}
    for part, inside in split_parts(state_dict).items():
        renamed = maps[part](inside) if part in maps else inside
        prefix = f'{part}.' if part else ''
        converted |= {f'{prefix}{k}': v for k, v in renamed.items()}
    return converted
