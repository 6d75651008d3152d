"""Predictions and labels to numbers."""

from .iou_metric import IoUMetric

__all__ = ['IoUMetric']
