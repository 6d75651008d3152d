"""Checkpoints: read them safely, map their names, load them with a receipt."""

from .checkpoint import read_checkpoint
from .pretrained import KEY_MAPS, load_pretrained
from .receipt import Receipt, WeightsError, load_weights

__all__ = [
    'KEY_MAPS',
    'Receipt',
    'WeightsError',
    'load_pretrained',
    'load_weights',
    'read_checkpoint',
]
