"""Containers that travel with a sample."""

from .grid_data import IGNORE_INDEX, GridData

__all__ = ['IGNORE_INDEX', 'GridData']
