"""Heads: from a pyramid to logits."""

from .decode_head import DecodeHead, scores_to_labels
from .fcn_head import FCNHead
from .uper_head import UPerHead

__all__ = ['DecodeHead', 'FCNHead', 'UPerHead', 'scores_to_labels']
