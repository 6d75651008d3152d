"""Patches of a case for training, rotated and scaled as they are cut."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from mmcv.transforms import BaseTransform
from torch import Tensor

from ...registry import TRANSFORMS
from ...structures import IGNORE_INDEX
from ..layout import channels_first_image
from .affine import (
    rotation_matrix,
    sample_image,
    sample_labels,
    sampling_grid,
    source_box,
)

# Above this ratio of the longest axis to the first one, the slices of a patch
# are transformed alike and not mixed. nnU-Net's ANISO_THRESHOLD.
ANISOTROPY = 3
# The key of ``foreground`` under which all annotated voxels of a partly
# annotated case are.
ANNOTATED = -1


def is_anisotropic(size: Sequence[int]) -> bool:
    """Whether a patch of this size is a stack of slices, to nnU-Net."""
    return len(size) == 3 and max(size) / size[0] > ANISOTROPY


def largest_rotation(size: Sequence[int]) -> float:
    """Return nnU-Net's largest angle for a patch of this size, in degrees.

    Source: nnU-Net v2's nnUNetTrainer.py,
    ``configure_rotation_dummyDA_mirroring_and_inital_patch_size``.
    """
    if len(size) == 2:
        return 15 if max(size) / min(size) > 1.5 else 180
    return 180 if is_anisotropic(size) else 30


@TRANSFORMS.register_module()
class CropPatch(BaseTransform):
    """Cut a random patch, more often than by chance with foreground in it.

    A share of the patches is centred on a random voxel of a random class
    that the case has, as far as the border of the case permits; the rest are
    anywhere in the case. Where the case is smaller than the patch, it lies
    in its middle. In a partly annotated case (``foreground`` has the key -1)
    the rest is centred on annotated voxels, too.

    A rotated or scaled patch is sampled from the voxels of the case that it
    shows, so its corners are empty only outside of the case. Angles and
    factors are those of the voxel grid, not of mm. Memory-mapped arrays are
    read within the patch only.

    Takes ``img`` ``(C, *S)``, memory-mapped or not, ``gt_seg_map`` ``S`` if
    there is one, and ``foreground``: class to ``(n, rank)`` voxels; without
    it the labels are searched. Sets ``img`` ``float32`` ``(C, *size)``,
    ``gt_seg_map`` ``size`` and ``img_shape``, and drops ``foreground``.

    Facts: nnU-Net v2's data_loader.py and, for rotation and scaling,
    batchgeneratorsv2's spatial.py, https://github.com/MIC-DKFZ.

    Args:
        size: Voxels of the patch, one number an axis. Two numbers and a
            volume: a slice across the first axis, ``(C, H, W)``.
        foreground_ratio: Share of the patches that is centred on foreground.
        rotation: Largest angle in degrees, either way, about every axis;
            ``None`` for ``largest_rotation(size)``.
        rotation_prob: Share of the patches that is rotated.
        scaling: Voxels of the case that become one of the patch, from and
            to: above 1, things look smaller.
        scaling_prob: Share of the patches that is scaled.
        in_plane: Whether to leave the first axis of a 3D patch alone;
            ``None`` for ``is_anisotropic(size)``.
        pad_label: Label of what lies outside of the case, where the image is
            0. nnU-Net trains it as background (its -1 becomes 0 before the
            loss); 255 leaves it out of the loss.

    Raises:
        ValueError: The case has another rank, or image and labels have
            different grids.
    """

    def __init__(
        self,
        size: Sequence[int],
        foreground_ratio: float = 0.33,
        *,
        rotation: float | None = None,
        rotation_prob: float = 0.0,
        scaling: tuple[float, float] = (0.7, 1.4),
        scaling_prob: float = 0.0,
        in_plane: bool | None = None,
        pad_label: int = 0,
    ) -> None:
        if len(size) not in (2, 3) or min(size) < 1:
            raise ValueError(
                'CropPatch: size must be (H, W) or (D, H, W) in voxels, got '
                f'{size}'
            )
        if not 0 < scaling[0] <= scaling[1]:
            raise ValueError(
                'CropPatch: scaling must be (low, high) with 0 < low <= '
                f'high, got {scaling}'
            )
        self.size = tuple(size)
        self.foreground_ratio = foreground_ratio
        self.rotation = rotation
        if rotation is None:
            self.rotation = largest_rotation(size)
        self.rotation_prob = rotation_prob
        self.scaling = tuple(scaling)
        self.scaling_prob = scaling_prob
        self.in_plane = is_anisotropic(size) if in_plane is None else in_plane
        self.pad_label = pad_label

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Cut the patch."""
        image = channels_first_image(results, 'CropPatch')
        labels = results.get('gt_seg_map')
        grid = image.shape[1:]
        self._check(grid, labels, results.get('img_path'))
        # A slice is a patch of one voxel along the first axis.
        size = (1,) * (len(grid) - len(self.size)) + self.size
        foreground = results.pop('foreground', None)
        start = self._choose_start(grid, size, labels, foreground)
        rank = 2 if self.in_plane else len(self.size)
        matrix = self._choose_matrix(rank)
        window = _Window.place(start, size, matrix, grid)
        results['img'] = window.cut(image).reshape(-1, *self.size)
        results['channels_first'] = True
        results['img_shape'] = self.size
        if 'spacing' in results:
            results['spacing'] = tuple(results['spacing'])[-len(self.size) :]
        if labels is not None:
            patch = window.cut(labels[None], self.pad_label)
            results['gt_seg_map'] = patch.reshape(self.size)
        return results

    def _check(
        self,
        grid: tuple[int, ...],
        labels: np.ndarray | None,
        path: str | None,
    ) -> None:
        if len(grid) not in (len(self.size), 3):
            raise ValueError(
                f'{path}: CropPatch(size={self.size}) takes volumes, but the '
                f'image has the grid {grid}'
            )
        if labels is not None and labels.shape != grid:
            raise ValueError(
                f'{path}: the image has the grid {grid}, but the labels have '
                f'{labels.shape}; patches are for training, where '
                'LoadCase(test_mode=False) gives both on one grid'
            )

    def _choose_start(
        self,
        grid: tuple[int, ...],
        size: tuple[int, ...],
        labels: np.ndarray | None,
        foreground: dict[int, np.ndarray] | None,
    ) -> np.ndarray:
        """Return the patch's first voxel."""
        size = np.asarray(size)
        missing = np.maximum(size - grid, 0)
        low = -missing // 2
        high = np.maximum(grid - size, low)
        voxel = self._choose_voxel(labels, foreground)
        if voxel is None:
            return np.random.randint(low, high + 1)
        return np.clip(voxel - size // 2, low, high)

    def _choose_voxel(
        self,
        labels: np.ndarray | None,
        foreground: dict[int, np.ndarray] | None,
    ) -> np.ndarray | None:
        """Return the voxel to centre on, or ``None`` for any."""
        oversample = np.random.rand() < self.foreground_ratio
        if foreground is None:
            if not oversample or labels is None:
                return None
            values = np.unique(labels)
            values = values[(values != 0) & (values != IGNORE_INDEX)]
            if not len(values):
                return None
            voxels = np.flatnonzero(labels == np.random.choice(values))
            return np.array(
                np.unravel_index(np.random.choice(voxels), labels.shape)
            )
        present = [k for k, v in foreground.items() if len(v)]
        classes = [k for k in present if k != ANNOTATED]
        if oversample and classes:
            choice = classes[np.random.randint(len(classes))]
        elif ANNOTATED in present:
            choice = ANNOTATED
        else:
            return None
        voxels = foreground[choice]
        return np.asarray(voxels[np.random.randint(len(voxels))])

    def _choose_matrix(self, rank: int) -> np.ndarray | None:
        """Return the rotation and scaling, or ``None`` for none."""
        rotate = np.random.rand() < self.rotation_prob
        scale = np.random.rand() < self.scaling_prob
        if not rotate and not scale:
            return None
        matrix = np.eye(rank)
        if rotate:
            angles = np.random.uniform(-1, 1, 1 if rank == 2 else 3)
            matrix = rotation_matrix(np.deg2rad(self.rotation * angles))
        return matrix * np.random.uniform(*self.scaling) if scale else matrix

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(size={self.size}, foreground_ratio='
            f'{self.foreground_ratio}, rotation={self.rotation}, '
            f'rotation_prob={self.rotation_prob}, scaling={self.scaling}, '
            f'scaling_prob={self.scaling_prob}, in_plane={self.in_plane}, '
            f'pad_label={self.pad_label})'
        )


class _Window(NamedTuple):
    """Which voxels of a case a patch shows, and how.

    Attributes:
        low: First voxel to read, one number an axis.
        high: The ones after the last.
        size: Of the patch.
        grid: Where to sample the last axes of what was read; ``None``: that
            is the patch.
    """

    low: np.ndarray
    high: np.ndarray
    size: tuple[int, ...]
    grid: Tensor | None = None

    @classmethod
    def place(
        cls,
        start: np.ndarray,
        size: tuple[int, ...],
        matrix: np.ndarray | None,
        shape: tuple[int, ...],
    ) -> '_Window':
        """Rotate and scale the last axes of a patch about its centre.

        Args:
            start: First voxel of the patch if it were not rotated.
            size: Of the patch.
            matrix: Of the last axes; ``None`` for none.
            shape: Of the case.
        """
        low, high = start, start + size
        if matrix is None:
            return cls(low, high, size)
        fixed = len(size) - len(matrix)
        centre = (start + (np.asarray(size) - 1) / 2)[fixed:]
        box = source_box(matrix, centre, size[fixed:])
        # Beyond the case the sampling finds nothing anyway.
        first, last = np.clip(box, 0, shape[fixed:])
        grid = sampling_grid(
            matrix, centre - first, size[fixed:], last - first
        )
        low = np.concatenate([low[:fixed], first])
        return cls(low, np.concatenate([high[:fixed], last]), size, grid)

    def cut(self, array: np.ndarray, fill: int | None = None) -> np.ndarray:
        """Cut the patch out of an image or labels.

        Args:
            array: ``(C, *S)``.
            fill: Label of what lies outside; ``None`` for an image.

        Returns:
            ``(C, *size)``, a copy: ``float32`` of an image, the labels' type.
        """
        patch = _read(array, self.low, self.high, fill)
        if self.grid is None:
            return patch
        rank = self.grid.shape[-1]
        stack = patch.reshape(-1, *patch.shape[-rank:])
        sampled = (
            sample_image(stack, self.grid)
            if fill is None
            else sample_labels(stack, self.grid, fill)
        )
        return sampled.reshape(len(array), *self.size)


def _read(
    array: np.ndarray, low: np.ndarray, high: np.ndarray, fill: int | None
) -> np.ndarray:
    """Copy a box out of ``(C, *S)``, padded where it lies outside."""
    kind = np.float32 if fill is None else array.dtype
    patch = np.full((len(array), *(high - low)), fill or 0, kind)
    inner = np.clip([low, high], 0, array.shape[1:])
    source = [slice(*ends) for ends in inner.T]
    target = [slice(*ends) for ends in (inner - low).T]
    patch[:, *target] = array[:, *source]
    return patch
