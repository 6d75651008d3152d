"""Losses of low-resolution logits and labels."""

from .cross_entropy_loss import CrossEntropyLoss
from .dice_ce_loss import DiceCELoss
from .dice_loss import DiceLoss
from .focal_loss import FocalLoss
from .ohem import hard_pixels
from .segmentation_loss import (
    SegmentationLoss,
    targets_and_mask,
)

__all__ = [
    'CrossEntropyLoss',
    'DiceCELoss',
    'DiceLoss',
    'FocalLoss',
    'SegmentationLoss',
    'hard_pixels',
    'targets_and_mask',
]
