"""Volumes: nnU-Net's datasets and others, prepared once.

The dataset classes are in ``dataset``, which needs the transforms, which need
this.
"""

from .case_cache import cache_cases, read_case
from .plan import Plan
from .planning import plan_dataset, preprocessed_folder
from .preprocessing import preprocess_image
from .raw import (
    Case,
    RawDataset,
    find_dataset,
    find_volume_folder,
    nnunet_folder,
)
from .reading import (
    VOLUME_SUFFIXES,
    Volume,
    check_same_geometry,
    read_image,
    read_volume,
    write_labels,
)

__all__ = [
    'VOLUME_SUFFIXES',
    'Case',
    'Plan',
    'RawDataset',
    'Volume',
    'cache_cases',
    'check_same_geometry',
    'find_dataset',
    'find_volume_folder',
    'nnunet_folder',
    'plan_dataset',
    'preprocess_image',
    'preprocessed_folder',
    'read_case',
    'read_image',
    'read_volume',
    'write_labels',
]
