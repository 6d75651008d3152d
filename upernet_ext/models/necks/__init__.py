"""Necks: from a backbone's maps to a pyramid."""

from .feature2pyramid import Feature2Pyramid
from .multilevel_neck import MultiLevelNeck

__all__ = ['Feature2Pyramid', 'MultiLevelNeck']
