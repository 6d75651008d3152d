"""Hooks that mmengine and mmseg lack."""

from .save_pictures import SaveLabelMaps, SavePictures
from .save_trainable import SaveTrainable

__all__ = ['SaveLabelMaps', 'SavePictures', 'SaveTrainable']
