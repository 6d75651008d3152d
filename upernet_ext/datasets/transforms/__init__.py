"""What turns a file into a model's input."""

from .color import PhotoMetricDistortion
from .formatting import PackInputs
from .loading import IGNORE_INDEX, LoadImage, LoadMask

__all__ = [
    'IGNORE_INDEX',
    'LoadImage',
    'LoadMask',
    'PackInputs',
    'PhotoMetricDistortion',
]
