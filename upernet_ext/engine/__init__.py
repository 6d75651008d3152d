"""Running a model: what mmengine lacks."""

from .compiling import compile_parts
from .dataset_paths import DataNotFoundError
from .hooks import SaveLabelMaps, SavePictures, SaveTrainable
from .log_processor import LogProcessor, peak_memory
from .optimizers import AmpOptimWrapper, LayerDecayConstructor
from .runner import Runner

__all__ = [
    'AmpOptimWrapper',
    'DataNotFoundError',
    'LayerDecayConstructor',
    'LogProcessor',
    'Runner',
    'SaveLabelMaps',
    'SavePictures',
    'SaveTrainable',
    'compile_parts',
    'peak_memory',
]
