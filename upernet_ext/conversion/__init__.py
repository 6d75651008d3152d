"""Whole models from one library to another, with a receipt of numbers."""

from .comparison import Comparison, compare
from .convert import TARGETS, convert
from .show import describe

__all__ = ['TARGETS', 'Comparison', 'compare', 'convert', 'describe']
