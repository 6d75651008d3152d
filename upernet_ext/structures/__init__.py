"""Containers that travel with a sample."""

from .grid_data import GridData

__all__ = ['GridData']
