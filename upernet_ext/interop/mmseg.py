"""Names of mmsegmentation's segmentors.

``UPerHead``, ``FCNHead``, ``DepthwiseSeparableASPPHead`` and the necks have
the names of ours; only backbones that are our own differ.
"""

from torch import Tensor

from .key_style import KeyStyle, StateDict
from .parts import convert_parts


def from_segmentor(
    state_dict: StateDict, backbone: KeyStyle
) -> dict[str, Tensor]:
    """Rename mmseg's ``EncoderDecoder`` to ours.

    Args:
        state_dict: Of the whole model.
        backbone: How mmseg (or mmpretrain) names the backbone.
    """
    return convert_parts(state_dict, {'backbone': backbone.from_style})


def to_segmentor(
    state_dict: StateDict, backbone: KeyStyle
) -> dict[str, Tensor]:
    """Name our ``EncoderDecoder`` as mmseg's; see ``from_segmentor``."""
    return convert_parts(state_dict, {'backbone': backbone.to_style})
