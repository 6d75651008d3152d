"""Containers that travel with a sample."""

from .case_geometry import CaseGeometry
from .grid_data import IGNORE_INDEX, GridData

__all__ = ['IGNORE_INDEX', 'CaseGeometry', 'GridData']
