"""Models: preprocessor, backbones, necks, heads, losses, segmentors."""

from .. import layers  # noqa: F401  (its norms register themselves)
from .backbones import TransformersBackbone, VisionTransformer
from .data_preprocessor import SegDataPreProcessor
from .decode_heads import DecodeHead, FCNHead, UPerHead
from .losses import CrossEntropyLoss, DiceLoss, FocalLoss
from .necks import Feature2Pyramid, MultiLevelNeck
from .segmentors import EncoderDecoder

__all__ = [
    'CrossEntropyLoss',
    'DecodeHead',
    'DiceLoss',
    'EncoderDecoder',
    'FCNHead',
    'Feature2Pyramid',
    'FocalLoss',
    'MultiLevelNeck',
    'SegDataPreProcessor',
    'TransformersBackbone',
    'UPerHead',
    'VisionTransformer',
]
