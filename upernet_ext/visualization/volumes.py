"""Draw labels over volumes: three planes through their middle.

From the top: axial, coronal and sagittal, for a file whose axes are ``(z, y,
x)``; the last row of a plane is drawn at the top, so that z points up. Pixels
are squares of the smallest spacing.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from ..datasets.palette import generate_palette
from ..layers.rank import resize
from ..structures import IGNORE_INDEX, CaseGeometry
from .drawing import Palette, draw_comparison

# Intensities outside of these percentiles are drawn black and white.
_WINDOW = (0.5, 99.5)
_GAP = 2


def source_image(
    inputs: Tensor, metainfo: Mapping[str, Any], shape: Sequence[int]
) -> np.ndarray:
    """Take a model's input back to the grid of its labels.

    Args:
        inputs: ``(C, *S)``; the first channel is taken.
        metainfo: Of the sample; see ``CaseGeometry``.
        shape: The grid of the labels.

    Returns:
        ``(*shape)``, ``float32``, with the smallest value where the image was
        cropped.
    """
    geometry = CaseGeometry.from_metainfo(metainfo)
    size = shape if geometry is None else geometry.box_shape
    image = resize(inputs[None, :1].float().cpu(), size)[0]
    if geometry is not None:
        image = geometry.paste(image - image.min())
    return image[0].numpy()


def draw_volume(
    image: np.ndarray,
    truth: Tensor | np.ndarray | None,
    prediction: Tensor | np.ndarray,
    *,
    spacing: Sequence[float] | None = None,
    classes: Sequence[str],
    palette: Palette | None = None,
    opacity: float = 0.5,
) -> np.ndarray:
    """Draw image | truth | prediction of three planes, with titles.

    The planes go through the centre of mass of the true labels, or of the
    predicted ones where there is none, or else of the volume.

    Args:
        image: ``(D, H, W)``, any range.
        truth: ``(1, D, H, W)`` class indices or ``(K, D, H, W)`` of 0 and 1,
            255 is ignored; ``None`` to leave it out.
        prediction: Likewise.
        spacing: Of neighbouring voxels in mm; equal where ``None``.
        classes: Name of each class. Of classes that exclude each other the
            first is the background, which is left bare.
        palette: RGB colour of each class; made up where ``None``.
        opacity: 0 shows the image only, 1 the colours only.

    Returns:
        ``(H', W', 3)``, uint8, RGB.

    Raises:
        ValueError: The sizes differ; or as ``draw_overlay``.
    """
    fields = [_to_numpy(f) for f in (truth, prediction) if f is not None]
    for field in fields:
        if field.shape[1:] != image.shape:
            raise ValueError(
                f'labels of shape {field.shape[1:]} do not fit a volume of '
                f'shape {image.shape}; take it through source_image'
            )
    spacing = (1.0, 1.0, 1.0) if spacing is None else spacing
    colors = generate_palette(classes) if palette is None else palette
    # Labels of classes that exclude each other: one channel for them all.
    first = int(len(classes) > 1 and len(fields[0]) == 1)
    centre = _centre(fields, image.shape)
    drawn = [
        _mosaic(
            [_class_planes(p, len(classes)) for p in _planes(field, centre)],
            spacing,
            cv2.INTER_NEAREST,
        )
        for field in fields
    ]
    grey = _grey(_planes(image[None], centre))
    return draw_comparison(
        np.stack([*_mosaic(grey, spacing, cv2.INTER_LINEAR)] * 3, axis=-1),
        None if truth is None else drawn[0],
        drawn[-1],
        classes=classes[first:],
        palette=colors[first:],
        opacity=opacity,
    )


def _to_numpy(field: Tensor | np.ndarray) -> np.ndarray:
    return np.asarray(torch.as_tensor(field).cpu())


def _centre(fields: Sequence[np.ndarray], shape: Sequence[int]) -> list[int]:
    """Return the voxel that the planes go through."""
    for field in fields:
        labelled = ((field > 0) & (field != IGNORE_INDEX)).any(axis=0)
        if labelled.any():
            axes = range(labelled.ndim)
            masses = [
                labelled.sum(axis=tuple({*axes} - {axis})) for axis in axes
            ]
            return [
                round(np.average(np.arange(len(mass)), weights=mass))
                for mass in masses
            ]
    return [size // 2 for size in shape]


def _planes(field: np.ndarray, centre: Sequence[int]) -> list[np.ndarray]:
    """Cut ``(C, D, H, W)`` into three ``(C, rows, columns)``, z upwards."""
    return [
        field.take(index, axis=1 + axis)[:, ::-1]
        for axis, index in enumerate(centre)
    ]


def _class_planes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Turn labels into one plane of 0, 1 and 255 a class."""
    if len(labels) > 1 or num_classes == 1:
        return labels.astype(np.uint8)
    planes = labels == np.arange(1, num_classes)[:, None, None]
    return np.where(labels == IGNORE_INDEX, IGNORE_INDEX, planes).astype(
        np.uint8
    )


def _grey(planes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Stretch intensities to 0..255, uint8."""
    values = np.concatenate([plane.ravel() for plane in planes])
    low, high = np.percentile(values, _WINDOW)
    factor = 255 / max(high - low, 1e-6)
    return [
        ((plane - low) * factor).clip(0, 255).round().astype(np.uint8)
        for plane in planes
    ]


def _mosaic(
    planes: Sequence[np.ndarray], spacing: Sequence[float], interpolation: int
) -> np.ndarray:
    """Resize planes to square pixels, and stack them from the top."""
    pixel = min(spacing)
    resized = []
    for axis, plane in enumerate(planes):
        steps = [step for k, step in enumerate(spacing) if k != axis]
        rows, columns = (
            max(1, round(size * step / pixel))
            for size, step in zip(plane.shape[1:], steps, strict=True)
        )
        resized.append(
            np.stack(
                [
                    cv2.resize(
                        np.ascontiguousarray(part),
                        (columns, rows),
                        interpolation=interpolation,
                    )
                    for part in plane
                ]
            )
        )
    width = max(plane.shape[2] for plane in resized)
    padded = [
        np.pad(plane, ((0, 0), (0, _GAP), (0, width - plane.shape[2])))
        for plane in resized
    ]
    return np.concatenate(padded, axis=1)[:, :-_GAP]
