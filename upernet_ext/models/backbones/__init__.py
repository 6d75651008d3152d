"""Backbones, and the door through which borrowed ones come."""

from .convnext import ConvNeXt
from .densenet import DenseNet
from .door import (
    Levels,
    accepts,
    as_maps,
    backbone_levels,
    build_backbone,
    fill,
    neck_levels,
    type_of,
)
from .efficientnet import EfficientNet
from .mit import MiT
from .regnet import RegNet
from .resnet import ResNet
from .resnetv2 import ResNetV2
from .swin import SwinTransformer
from .timm_backbone import TimmBackbone
from .transformers_backbone import TransformersBackbone
from .vision_transformer import VisionTransformer
from .xception import Xception

__all__ = [
    'ConvNeXt',
    'DenseNet',
    'EfficientNet',
    'Levels',
    'MiT',
    'RegNet',
    'ResNet',
    'ResNetV2',
    'SwinTransformer',
    'TimmBackbone',
    'TransformersBackbone',
    'VisionTransformer',
    'Xception',
    'accepts',
    'as_maps',
    'backbone_levels',
    'build_backbone',
    'fill',
    'neck_levels',
    'type_of',
]
