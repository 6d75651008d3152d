"""Predictions of volumes as files that lie over their images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..datasets.volumes.reading import volume_suffix, write_labels


def to_label_map(
    labels: torch.Tensor | np.ndarray,
    regions_class_order: Sequence[int] | None = None,
) -> np.ndarray:
    """Turn a prediction into one label a voxel.

    Args:
        labels: ``(1, *S)`` class indices, or ``(K, *S)`` of 0 and 1.
        regions_class_order: Of ``K`` regions the label that each writes,
            later ones over earlier ones (nnU-Net's dataset.json).

    Returns:
        ``(*S)``, ``uint8``.

    Raises:
        ValueError: Several classes without an order.
    """
    field = np.asarray(torch.as_tensor(labels).cpu())
    if regions_class_order is None and len(field) == 1:
        return field[0].astype(np.uint8)
    if len(regions_class_order or ()) != len(field):
        raise ValueError(
            f'{len(field)} overlapping classes make one label map only with '
            'as many numbers in regions_class_order of dataset.json, the '
            f'label that each writes; got {regions_class_order}'
        )
    merged = np.zeros(field.shape[1:], np.uint8)
    for plane, value in zip(field, regions_class_order, strict=True):
        merged[plane == 1] = value
    return merged


def write_prediction(
    stem: str | Path,
    labels: torch.Tensor | np.ndarray,
    *,
    like: str | Path,
    regions_class_order: Sequence[int] | None = None,
) -> Path:
    """Write a prediction with the affine and header of its image.

    Args:
        stem: Where to, without the suffix, which is the image's.
        labels: See ``to_label_map``, in the image's grid ``(z, y, x)``.
        like: The image, the first channel.
        regions_class_order: See ``to_label_map``.

    Returns:
        The file.
    """
    stem = Path(stem)
    path = stem.with_name(f'{stem.name}{volume_suffix(like)}')
    merged = to_label_map(labels, regions_class_order)
    write_labels(path, merged, like=like)
    return path
