"""Hooks that mmengine and mmseg lack."""

from .save_pictures import SaveLabelMaps, SavePictures

__all__ = ['SaveLabelMaps', 'SavePictures']
