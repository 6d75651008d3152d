"""What a user calls from Python: build a model, load one, predict."""

from ..models.backbones.encoders import list_encoders
from .factory import build_model
from .inference import init_model, predict, predict_files

__all__ = [
    'build_model',
    'init_model',
    'list_encoders',
    'predict',
    'predict_files',
]
