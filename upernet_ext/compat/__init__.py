"""Entry points under the names that other projects call."""

from .vit_upernet import create_segmentation_model

__all__ = ['create_segmentation_model']
