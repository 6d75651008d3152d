"""Entry points under the names that other projects call."""

from .vit_upernet import ViTUPerNet, create_segmentation_model

__all__ = ['ViTUPerNet', 'create_segmentation_model']
