"""What turns a file into a model's input."""

from .case import LoadCase
from .color import PhotoMetricDistortion
from .crop import RandomCrop, RandomResizeCrop
from .formatting import PackInputs
from .loading import LoadImage, LoadMask
from .monai_transforms import MonaiTransform
from .patch import CropPatch
from .volume_augmentation import (
    RandomBrightness,
    RandomContrast,
    RandomGamma,
    RandomGaussianBlur,
    RandomGaussianNoise,
    RandomLowResolution,
    RandomMirror,
)

__all__ = [
    'CropPatch',
    'LoadCase',
    'LoadImage',
    'LoadMask',
    'MonaiTransform',
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
]
