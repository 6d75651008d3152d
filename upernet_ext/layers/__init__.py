"""Building blocks: pure torch and mmcv, of any rank."""

from .patch_embed import PatchEmbed, resample_position_embedding
from .pyramid_pooling import PPM, ClippedAvgPool
from .rank import (
    BatchNorm2d,
    BatchNorm3d,
    GroupNorm,
    InstanceNorm2d,
    InstanceNorm3d,
    SyncBatchNorm,
)

__all__ = [
    'PPM',
    'BatchNorm2d',
    'BatchNorm3d',
    'ClippedAvgPool',
    'GroupNorm',
    'InstanceNorm2d',
    'InstanceNorm3d',
    'PatchEmbed',
    'SyncBatchNorm',
    'resample_position_embedding',
]
