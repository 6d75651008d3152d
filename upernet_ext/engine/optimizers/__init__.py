"""Optimiser wrappers and parameter groups that mmengine lacks."""

from .amp import AmpOptimWrapper
from .layer_decay import LayerDecayConstructor

__all__ = ['AmpOptimWrapper', 'LayerDecayConstructor']
