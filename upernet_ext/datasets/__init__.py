"""Datasets and what reads them."""

from .folder import FolderDataset
from .mni152 import MNI152Dataset
from .pipeline import DataError
from .transforms import (
    LoadImage,
    LoadMask,
    PackInputs,
    PhotoMetricDistortion,
)

__all__ = [
    'DataError',
    'FolderDataset',
    'LoadImage',
    'LoadMask',
    'MNI152Dataset',
    'PackInputs',
    'PhotoMetricDistortion',
]
