"""What turns a file into a model's input."""

from .color import PhotoMetricDistortion
from .formatting import PackInputs
from .loading import LoadImage, LoadMask

__all__ = [
    'LoadImage',
    'LoadMask',
    'PackInputs',
    'PhotoMetricDistortion',
]
