"""Building blocks: pure torch and mmcv, of any rank."""

from .aspp import ASPP
from .patch_embed import PatchEmbed, resample_position_embedding
from .pyramid_pooling import PPM, ClippedAvgPool
from .upsampled_conv import UpsampledConvModule

__all__ = [
    'ASPP',
    'PPM',
    'ClippedAvgPool',
    'PatchEmbed',
    'UpsampledConvModule',
    'resample_position_embedding',
]
