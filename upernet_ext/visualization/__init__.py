"""Pictures of images and their labels."""

from .drawing import (
    draw_comparison,
    draw_overlay,
    save_label_maps,
    save_picture,
    to_label_picture,
    to_picture,
)

__all__ = [
    'draw_comparison',
    'draw_overlay',
    'save_label_maps',
    'save_picture',
    'to_label_picture',
    'to_picture',
]
