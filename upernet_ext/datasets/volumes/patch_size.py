"""Patch and batch size from spacing and shape.

nnU-Net's idea (nnunetv2/experiment_planning of
https://github.com/MIC-DKFZ/nnUNet): the patch has the proportions of the
median case and as much of it as memory allows; what memory is left makes
the batch larger. nnU-Net estimates the memory of its U-Net; here the budget
is a number of voxels, the one that nnU-Net's estimate comes to for 8 GB: two
patches of 128^3, or 12 of 512^2.
"""

from collections.abc import Sequence
from math import ceil, prod

BATCH_VOXELS = {2: 12 * 512**2, 3: 2 * 128**3}
MIN_BATCH = 2
# A batch shows at most this share of the training set's voxels.
MAX_SHARE = 0.05
# The coarsest map has at least so many voxels along an axis, and a stride of
# at most 2^5 = 32, that of the encoders.
MIN_MAP = 4
MAX_POOLINGS = 5


def choose_patch(
    spacing: Sequence[float],
    median_shape: Sequence[float],
    *,
    batch_voxels: int | None = None,
) -> tuple[int, ...]:
    """Choose the patch size.

    Along each axis it is a multiple of 2 to the number of times the axis
    can be halved: until it has less than 8 voxels, at most five times, and
    as long as it is among the finest, within a factor of 2. Median shape
    36 x 50 x 35 at 1 mm gives 40 x 56 x 40, as nnU-Net: multiples of 8, so
    the maps at strides 4 and 8 are aligned, and an encoder pads the deeper
    ones by less than their stride.

    Args:
        spacing: mm, ``(z, y, x)`` or ``(y, x)``.
        median_shape: Of the resampled cases.
        batch_voxels: The memory budget: voxels in a batch of two patches;
            ``BATCH_VOXELS`` if ``None``.

    Returns:
        Voxels, one number an axis.
    """
    rank = len(spacing)
    budget = (batch_voxels or BATCH_VOXELS[rank]) / MIN_BATCH
    # A cube (square) in mm that is certainly too large.
    side = {2: 2048, 3: 256}[rank] * prod(spacing) ** (1 / rank)
    first = [
        min(round(side / mm), size)
        for mm, size in zip(spacing, median_shape, strict=True)
    ]
    patch = _round_up(first, spacing)
    while prod(patch) > budget and max(patch) > MIN_MAP:
        shares = [p / m for p, m in zip(patch, median_shape, strict=True)]
        patch = _shrink(patch, shares.index(max(shares)), spacing)
    return patch


def choose_batch(
    patch: Sequence[int],
    dataset_voxels: float,
    *,
    batch_voxels: int | None = None,
) -> int:
    """Choose how many patches make a batch.

    Args:
        patch: Their size.
        dataset_voxels: All voxels of the training set.
        batch_voxels: The memory budget; ``BATCH_VOXELS`` if ``None``.
    """
    budget = batch_voxels or BATCH_VOXELS[len(patch)]
    size = prod(patch)
    share = round(dataset_voxels * MAX_SHARE / size)
    return max(min(round(budget / size), share), MIN_BATCH)


def count_poolings(
    size: Sequence[float], spacing: Sequence[float]
) -> tuple[int, ...]:
    """Return how often each axis of a patch can be halved."""
    size, spacing = list(size), list(spacing)
    poolings = [0] * len(size)
    while True:
        axes = [
            i
            for i in range(len(size))
            if size[i] >= 2 * MIN_MAP and poolings[i] < MAX_POOLINGS
        ]
        finest = min((spacing[i] for i in axes), default=0)
        axes = [i for i in axes if spacing[i] < 2 * finest]
        if not axes or (len(axes) == 1 and size[axes[0]] < 3 * MIN_MAP):
            return tuple(poolings)
        for i in axes:
            poolings[i] += 1
            size[i] = ceil(size[i] / 2)
            spacing[i] *= 2


def _round_up(
    size: Sequence[float], spacing: Sequence[float]
) -> tuple[int, ...]:
    return tuple(
        ceil(s / 2**n) * 2**n
        for s, n in zip(size, count_poolings(size, spacing), strict=True)
    )


def _shrink(
    patch: tuple[int, ...], axis: int, spacing: Sequence[float]
) -> tuple[int, ...]:
    """Return the next smaller valid patch along one axis."""
    for size in range(patch[axis] - 1, 0, -1):
        smaller = list(patch)
        smaller[axis] = size
        rounded = _round_up(smaller, spacing)
        if rounded[axis] < patch[axis]:
            return rounded
    raise AssertionError(f'an axis of {patch} has a single voxel')
