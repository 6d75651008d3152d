"""Datasets and what reads them."""

from .folder import FolderDataset
from .mni152 import MNI152Dataset
from .pipeline import DataError
from .transforms import (
    CropPatch,
    LoadCase,
    LoadImage,
    LoadMask,
    MonaiTransform,
    PackInputs,
    PhotoMetricDistortion,
    RandomBrightness,
    RandomContrast,
    RandomCrop,
    RandomGamma,
    RandomGaussianBlur,
    RandomGaussianNoise,
    RandomLowResolution,
    RandomMirror,
    RandomResizeCrop,
)
from .volumes.dataset import NnUNetDataset, VolumeFolderDataset

__all__ = [
    'CropPatch',
    'DataError',
    'FolderDataset',
    'LoadCase',
    'LoadImage',
    'LoadMask',
    'MNI152Dataset',
    'MonaiTransform',
    'NnUNetDataset',
    'PackInputs',
    'PhotoMetricDistortion',
    'RandomBrightness',
    'RandomContrast',
    'RandomCrop',
    'RandomGamma',
    'RandomGaussianBlur',
    'RandomGaussianNoise',
    'RandomLowResolution',
    'RandomMirror',
    'RandomResizeCrop',
    'VolumeFolderDataset',
]
