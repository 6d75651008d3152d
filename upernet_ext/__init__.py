"""UPerNet for every backbone, in 2D and in 3D, from one config."""

from . import import_noise  # noqa: F401  (before all that use mmseg)

__version__ = '0.1.0'
