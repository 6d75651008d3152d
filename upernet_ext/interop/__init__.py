"""Checkpoints: read them safely, map their names, load them with a receipt."""

from .checkpoint import read_checkpoint
from .convert import load_segmentor
from .pretrained import KEY_MAPS, load_pretrained
from .receipt import (
    Change,
    Receipt,
    WeightsError,
    load_weights,
    published_name,
)
from .styles import STYLES

__all__ = [
    'KEY_MAPS',
    'STYLES',
    'Change',
    'Receipt',
    'WeightsError',
    'load_pretrained',
    'load_segmentor',
    'load_weights',
    'published_name',
    'read_checkpoint',
]
