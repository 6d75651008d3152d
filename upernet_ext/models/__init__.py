"""Models: preprocessor, backbones, necks, heads, losses, segmentors."""

from .. import layers  # noqa: F401  (its norms register themselves)
from .backbones import (
    ConvNeXt,
    DenseNet,
    EfficientNet,
    MiT,
    RegNet,
    ResNet,
    ResNetV2,
    SwinTransformer,
    TimmBackbone,
    TransformersBackbone,
    VisionTransformer,
    Xception,
)
from .data_preprocessor import SegDataPreProcessor
from .decode_heads import (
    DecodeHead,
    DeepLabV3PlusHead,
    FCNHead,
    UPerHead,
)
from .losses import CrossEntropyLoss, DiceCELoss, DiceLoss, FocalLoss
from .necks import Feature2Pyramid, MultiLevelNeck
from .segmentors import EncoderDecoder

__all__ = [
    'ConvNeXt',
    'CrossEntropyLoss',
    'DecodeHead',
    'DeepLabV3PlusHead',
    'DenseNet',
    'DiceCELoss',
    'DiceLoss',
    'EfficientNet',
    'EncoderDecoder',
    'FCNHead',
    'Feature2Pyramid',
    'FocalLoss',
    'MiT',
    'MultiLevelNeck',
    'RegNet',
    'ResNet',
    'ResNetV2',
    'SegDataPreProcessor',
    'SwinTransformer',
    'TimmBackbone',
    'TransformersBackbone',
    'UPerHead',
    'VisionTransformer',
    'Xception',
]
