"""Volumes from files and label maps into files, with their geometry.

NIfTI is read by nibabel, MetaImage and NRRD by SimpleITK. Arrays are
``(z, y, x)`` either way; affines map ``(x, y, z)`` indices to mm in the
right-anterior-superior system of NIfTI.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np

from .shared_work import complete_or_absent

NIFTI_SUFFIXES = ('.nii.gz', '.nii')
ITK_SUFFIXES = ('.mha', '.nrrd')
VOLUME_SUFFIXES = NIFTI_SUFFIXES + ITK_SUFFIXES
# Neighbouring headers store single precision; more than this is another grid.
MAX_SHIFT = 0.1


@dataclass(frozen=True)
class Volume:
    """What a file holds.

    Attributes:
        path: The file.
        array: ``(z, y, x)``, or ``(C, z, y, x)`` where that was asked for,
            in the file's type, scaled as its header says.
        affine: ``(4, 4)``: index ``(x, y, z, 1)`` to mm, right-anterior-
            superior.
    """

    path: str
    array: np.ndarray
    affine: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """The grid ``(z, y, x)``."""
        return self.array.shape[-3:]

    @property
    def spacing(self) -> tuple[float, ...]:
        """Distance of neighbouring voxels along ``(z, y, x)`` in mm."""
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        # Headers have single precision: 0.30000001192 mm is 0.3 mm.
        return tuple(float(f'{size:.6g}') for size in sizes[::-1])


def read_volume(path: str | Path, *, channels: bool = False) -> Volume:
    """Read a volume.

    Args:
        path: ``.nii.gz``, ``.nii``, ``.mha`` or ``.nrrd``.
        channels: Whether the file may hold several channels, which then
            come first: ``(C, z, y, x)``, also for one.

    Raises:
        ValueError: The file is missing, empty, truncated or no volume, it
            has another number of axes, its affine is singular, or values
            are NaN or infinite; the message names it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f'{path}: no such file')
    read = _read_nifti if volume_suffix(path) in NIFTI_SUFFIXES else _read_itk
    array, affine = read(path)
    if array.ndim not in ((3, 4) if channels else (3,)):
        hint = (
            '; split the channels or times into one file each'
            if array.ndim == 4
            else ''
        )
        raise ValueError(
            f'{path}: needs a volume of 3 axes, the array has the shape '
            f'{array.shape[::-1]} (x, y, z, ...){hint}'
        )
    if 0 in array.shape:
        raise ValueError(f'{path}: the volume is empty, shape {array.shape}')
    if array.dtype.kind not in 'iufb':
        raise ValueError(
            f'{path}: voxels of type {array.dtype} are no plain numbers'
        )
    _check_affine(affine, path)
    if array.dtype.kind == 'f' and not np.isfinite(array).all():
        count = int((~np.isfinite(array)).sum())
        raise ValueError(
            f'{path}: {count} voxels are NaN or infinite; replace them'
        )
    if channels and array.ndim == 3:
        array = array[None]
    return Volume(str(path), array, affine)


def volume_suffix(path: str | Path) -> str:
    """Return the suffix, such as ``'.nii.gz'``.

    Raises:
        ValueError: It is not one of ``VOLUME_SUFFIXES``.
    """
    name = Path(path).name.lower()
    for suffix in VOLUME_SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise ValueError(
        f'{path}: volumes are read from {", ".join(VOLUME_SUFFIXES)} files'
    )


def check_same_geometry(volume: Volume, other: Volume) -> None:
    """Check that two files describe the same grid in space.

    Raises:
        ValueError: Shapes differ, or a corner of the grid lies in another
            place (by more than a tenth of the smallest spacing).
    """
    both = f'{other.path} and {volume.path} have different geometry: '
    if volume.shape != other.shape:
        raise ValueError(
            f'{both}shape {other.shape} and {volume.shape} (z, y, x)'
        )
    ends = [(0, size - 1) for size in volume.shape[::-1]]
    corners = np.array([(*corner, 1) for corner in product(*ends)])
    shift = corners @ (volume.affine - other.affine).T[:, :3]
    distance = np.linalg.norm(shift, axis=1).max()
    if distance > MAX_SHIFT * min(volume.spacing):
        raise ValueError(
            f'{both}their corners are up to {distance:.4g} mm apart (spacing '
            f'{other.spacing} and {volume.spacing} mm, origin '
            f'{_origin(other)} and {_origin(volume)}); resample one to the '
            'other, or copy the header if only that is wrong'
        )


def write_labels(
    path: str | Path, labels: np.ndarray, *, like: str | Path
) -> None:
    """Write a label map with the affine and header of its image.

    The file appears under its name when it is complete.

    Args:
        path: Where to; ends like the image does, folders are made.
        labels: ``(z, y, x)``, integers from 0.
        like: The image's file, of which the header is read.

    Raises:
        ValueError: The file type or the shape is not that of the image.
    """
    labels = np.asarray(labels)
    if labels.min() < 0 or labels.max() > np.iinfo(np.uint16).max:
        raise ValueError(
            f'{path}: labels must be 0 to 65535, got {labels.min()} to '
            f'{labels.max()}'
        )
    labels = labels.astype(
        np.uint8 if labels.max() <= np.iinfo(np.uint8).max else np.uint16
    )
    nifti = volume_suffix(path) in NIFTI_SUFFIXES
    if nifti != (volume_suffix(like) in NIFTI_SUFFIXES):
        raise ValueError(
            f'{path}: the header of {like} fits the same type of file only; '
            f'let the name end in {volume_suffix(like)}'
        )
    with complete_or_absent(Path(path)) as partial:
        (_write_nifti if nifti else _write_itk)(partial, labels, str(like))


def read_image(paths: Sequence[str | Path], num_channels: int) -> Volume:
    """Read a case's channels: a file each, or all of them in one file.

    Returns:
        ``float32`` ``(C, z, y, x)`` with the geometry of the first file.

    Raises:
        ValueError: A file is unusable, the number of channels is not
            ``num_channels``, or their geometries differ.
    """
    if len(paths) == 1 and num_channels > 1:
        volume = read_volume(paths[0], channels=True)
        volumes, array = [volume], volume.array.astype(np.float32)
    else:
        volumes = [read_volume(path) for path in paths]
        for volume in volumes[1:]:
            check_same_geometry(volumes[0], volume)
        array = np.stack([v.array.astype(np.float32) for v in volumes])
    if len(array) != num_channels:
        raise ValueError(
            f'{", ".join(map(str, paths))}: {len(array)} channel(s), but the '
            f'dataset has {num_channels}'
        )
    return Volume(volumes[0].path, array, volumes[0].affine)


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    nibabel = _import('nibabel')
    errors = (
        nibabel.filebasedimages.ImageFileError,
        nibabel.spatialimages.HeaderDataError,
    )
    try:
        image = nibabel.load(path)
        array = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error, *errors) as error:
        raise _unreadable(path, error) from error
    return array.transpose(), np.asarray(image.affine, float)


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    sitk = _import('SimpleITK')
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    array = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    if image.GetDimension() != 3:
        return array, np.eye(4)
    affine = np.eye(4)
    direction = np.reshape(image.GetDirection(), (3, 3))
    affine[:3, :3] = direction * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    # ITK counts to the left and to the back.
    return array, np.diag([-1, -1, 1, 1]) @ affine


def _write_nifti(path: Path, labels: np.ndarray, like: str) -> None:
    source = _import('nibabel').load(like)
    _check_shape(labels, source.shape[2::-1], like)
    header = source.header.copy()
    header.set_data_dtype(labels.dtype)
    header['cal_min'] = header['cal_max'] = 0
    type(source)(labels.transpose(), source.affine, header).to_filename(path)


def _write_itk(path: Path, labels: np.ndarray, like: str) -> None:
    sitk = _import('SimpleITK')
    source = sitk.ImageFileReader()
    source.SetFileName(like)
    source.ReadImageInformation()
    _check_shape(labels, source.GetSize()[2::-1], like)
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing(source.GetSpacing()[:3])
    image.SetOrigin(source.GetOrigin()[:3])
    image.SetDirection(source.GetDirection())
    sitk.WriteImage(image, str(path), useCompression=True)


def _check_shape(labels: np.ndarray, shape: Sequence[int], like: str) -> None:
    if labels.shape != tuple(shape):
        raise ValueError(
            f'labels of shape {labels.shape} do not fit {like}, which has '
            f'{tuple(shape)} (z, y, x)'
        )


def _check_affine(affine: np.ndarray, path: Path) -> None:
    matrix = affine[:3, :3]
    # Of unit columns, so that small voxels are not taken for none.
    columns = matrix / np.maximum(np.linalg.norm(matrix, axis=0), 1e-12)
    if np.isfinite(affine).all() and abs(np.linalg.det(columns)) > 1e-3:
        return
    raise ValueError(
        f'{path}: the affine is singular, voxels have no place in space: '
        f'{np.round(affine, 4).tolist()}; write a header with a spacing and '
        'a direction for every axis'
    )


def _unreadable(path: Path, error: Exception) -> ValueError:
    size = path.stat().st_size
    reason = str(error).strip().splitlines()
    return ValueError(
        f'{path}: unreadable or truncated ({size} bytes): '
        f'{type(error).__name__}: {reason[-1] if reason else ""}'
    )


def _origin(volume: Volume) -> list[float]:
    return np.round(volume.affine[:3, 3], 3).tolist()


def _import(name: str) -> ModuleType:
    try:
        return __import__(name)
    except ImportError as error:
        raise ImportError(
            f"volumes need {name}: pip install 'upernet_ext[volumes]'"
        ) from error
