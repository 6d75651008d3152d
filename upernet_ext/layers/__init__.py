"""Building blocks: pure torch and mmcv, of any rank."""

from .patch_embed import PatchEmbed, resample_position_embedding
from .pyramid_pooling import PPM, ClippedAvgPool

__all__ = [
    'PPM',
    'ClippedAvgPool',
    'PatchEmbed',
    'resample_position_embedding',
]
