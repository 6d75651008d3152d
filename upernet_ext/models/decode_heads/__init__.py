"""Heads: from a pyramid to logits."""

from .decode_head import DecodeHead, scores_to_labels
from .deeplabv3plus_head import DeepLabV3PlusHead
from .fcn_head import FCNHead
from .progressive_upsampler import ProgressiveUpsampler
from .uper_head import UPerHead

__all__ = [
    'DecodeHead',
    'DeepLabV3PlusHead',
    'FCNHead',
    'ProgressiveUpsampler',
    'UPerHead',
    'scores_to_labels',
]
