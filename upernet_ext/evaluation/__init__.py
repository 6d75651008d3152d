"""Predictions and labels to numbers."""

from .. import import_noise  # noqa: F401  (before all that use mmseg)
from .iou_metric import IoUMetric

__all__ = ['IoUMetric']
