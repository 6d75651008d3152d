"""UPerNet for every backbone, in 2D and 3D, from one config."""

__version__ = '0.1.0'
