"""Pictures of images and their labels."""

from .drawing import (
    draw_comparison,
    draw_overlay,
    save_label_maps,
    save_picture,
    to_label_picture,
    to_picture,
)
from .volumes import draw_volume, source_image

__all__ = [
    'draw_comparison',
    'draw_overlay',
    'draw_volume',
    'save_label_maps',
    'save_picture',
    'source_image',
    'to_label_picture',
    'to_picture',
]
