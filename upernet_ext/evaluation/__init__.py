"""Predictions and labels to numbers."""

from .case_metric import CaseMetric
from .iou_metric import IoUMetric

__all__ = ['CaseMetric', 'IoUMetric']
