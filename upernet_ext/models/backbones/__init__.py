"""Backbones, and the door through which borrowed ones come."""

from .door import (
    Levels,
    accepts,
    backbone_levels,
    build_backbone,
    fill,
    neck_levels,
    type_of,
)
from .transformers_backbone import TransformersBackbone
from .vision_transformer import VisionTransformer

__all__ = [
    'Levels',
    'TransformersBackbone',
    'VisionTransformer',
    'accepts',
    'backbone_levels',
    'build_backbone',
    'fill',
    'neck_levels',
    'type_of',
]
