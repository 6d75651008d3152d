"""Losses of low-resolution logits and labels."""

from .cross_entropy_loss import CrossEntropyLoss
from .monai_losses import DiceLoss, FocalLoss
from .segmentation_loss import (
    SegmentationLoss,
    targets_and_mask,
)

__all__ = [
    'CrossEntropyLoss',
    'DiceLoss',
    'FocalLoss',
    'SegmentationLoss',
    'targets_and_mask',
]
