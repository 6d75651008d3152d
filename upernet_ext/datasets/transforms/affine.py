"""Rotation and scaling of a patch, in voxels, for any rank.

A matrix ``M`` maps the patch to its source: the voxel ``p`` of the patch
shows what lies at ``centre + M (p - (size - 1) / 2)``.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def rotation_matrix(angles: Sequence[float]) -> np.ndarray:
    """Rotate in each plane of two axes, one after the other.

    Args:
        angles: Radians: one in 2D; in 3D three, about the last axis first.

    Returns:
        ``(rank, rank)``, orthogonal.
    """
    rank = {1: 2, 3: 3}[len(angles)]
    matrix = np.eye(rank)
    planes = combinations(range(rank), 2)
    for angle, (i, j) in zip(angles, planes, strict=True):
        turn = np.eye(rank)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[j, i] = np.sin(angle)
        turn[i, j] = -turn[j, i]
        matrix = turn @ matrix
    return matrix


def source_box(
    matrix: np.ndarray, centre: np.ndarray, size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the voxels that a patch shows.

    Args:
        matrix: ``M``, ``(rank, rank)``.
        centre: Where the patch's centre lies, in voxels.
        size: Of the patch, in voxels.

    Returns:
        First voxels and the ones after the last, integers, one an axis; they
        may lie outside of the case.
    """
    reach = np.abs(matrix) @ (np.asarray(size) - 1) / 2
    low = np.floor(centre - reach).astype(int)
    return low, np.ceil(centre + reach).astype(int) + 1


def sampling_grid(
    matrix: np.ndarray,
    centre: np.ndarray,
    size: Sequence[int],
    shape: Sequence[int],
) -> Tensor:
    """Return where each voxel of the patch lies in a box.

    Args:
        matrix: ``M``, ``(rank, rank)``.
        centre: Where the patch's centre lies, in voxels of the box.
        size: Of the patch, in voxels.
        shape: Of the box, in voxels.

    Returns:
        ``(1, *size, rank)``, as ``grid_sample`` with
        ``align_corners=False`` takes it.
    """
    size, shape = np.asarray(size), np.asarray(shape)
    # -1 and 1 are the outer faces of the first and the last voxel.
    scaled = matrix * size / shape[:, None]
    shift = (2 * np.asarray(centre) + 1) / shape - 1
    # torch counts the axes from the last one.
    theta = np.column_stack([scaled[::-1, ::-1], shift[::-1]])
    return F.affine_grid(
        torch.from_numpy(theta[None].astype(np.float32)),
        (1, 1, *size.tolist()),
        align_corners=False,
    )


def sample_image(image: np.ndarray, grid: Tensor) -> np.ndarray:
    """Interpolate linearly; what lies outside is 0.

    Args:
        image: ``(C, *box)`` ``float32``.
        grid: See ``sampling_grid``.

    Returns:
        ``(C, *size)``.
    """
    source = torch.from_numpy(image)[None]
    return F.grid_sample(source, grid, align_corners=False)[0].numpy()


def sample_labels(labels: np.ndarray, grid: Tensor, fill: int) -> np.ndarray:
    """Take the label with the most weight among a voxel's neighbours.

    It is the largest of the linearly interpolated one-hot maps, which are
    made one after the other. ``fill`` is what lies outside; it has the
    weight that the other labels leave.

    Args:
        labels: ``(C, *box)``, integers.
        grid: See ``sampling_grid``.
        fill: The label outside.

    Returns:
        ``(C, *size)``, with the type of ``labels``.
    """
    shape = (len(labels), *grid.shape[1:-1])
    result = np.full(shape, fill, labels.dtype)
    best, rest = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    for value in np.unique(labels):
        if value == fill:
            continue
        weight = sample_image((labels == value).astype(np.float32), grid)
        rest -= weight
        result[weight > best] = value
        np.maximum(best, weight, out=best)
    result[rest >= best] = fill
    return result
