"""From the files of a case to a normalised, resampled array.

nnU-Net's order: transpose, crop to what is not zero, normalise, resample
(nnunetv2/preprocessing/preprocessors/default_preprocessor.py).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ...structures import IGNORE_INDEX
from .cropping import nonzero_box
from .normalization import normalize
from .plan import Plan
from .raw import Case
from .reading import read_image
from .resampling import resample_image, resample_labels, resampled_shape

# At most so many voxels of a class are remembered for oversampling, or this
# share of them if that is more. Facts: nnU-Net's DefaultPreprocessor.
NUM_LOCATIONS = 10_000
MIN_LOCATIONS = 0.01


def preprocess_image(
    paths: str | Path | Sequence[str | Path], plan: Plan
) -> dict[str, Any]:
    """Prepare an image that may be in no dataset.

    Args:
        paths: The file of each channel, in the plan's order.
        plan: Of the dataset that the model was trained on.

    Returns:
        The sample's ``img`` ``float32`` ``(C, *S)``, ``spacing``,
        ``img_shape`` and the way back: ``ori_shape``, ``ori_spacing``,
        ``axes``, ``crop_box``; also ``case``, ``img_path`` and
        ``img_paths``.

    Raises:
        ValueError: A file is unusable, or channels are missing.
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    paths = [str(path) for path in paths]
    name = Path(paths[0]).name.removesuffix(plan.file_ending)
    return preprocess_case(Case(name, tuple(paths)), plan)


def preprocess_case(case: Case, plan: Plan) -> dict[str, Any]:
    """Prepare a case; as ``preprocess_image``, and its labels.

    Returns:
        What ``preprocess_image`` returns and, where the case has labels,
        ``gt_seg_map`` ``uint8`` ``S`` and ``source_seg_map`` ``uint8`` of
        the file's own grid.

    Raises:
        ValueError: A file is unusable; see ``reading`` and ``labels``.
    """
    volume = read_image(case.images, len(plan.channel_names))
    axes = plan.axes
    image = volume.array.transpose(0, *(1 + axis for axis in axes))
    spacing = tuple(volume.spacing[axis] for axis in axes)
    box = nonzero_box(image)
    window = tuple(slice(*ends) for ends in box)
    image = image[:, *window]
    # A 2D plan has no spacing for the first axis, and leaves it as it is.
    target = (*spacing[: 3 - len(plan.spacing)], *plan.spacing)
    geometry = dict(spacing=spacing, new_spacing=target)
    shape = resampled_shape(image.shape[1:], spacing, target)
    result = dict(
        case=case.name,
        img_path=case.images[0],
        img_paths=case.images,
        img=resample_image(_normalize(image, plan), shape, **geometry),
        img_shape=shape,
        spacing=tuple(
            s * old / new
            for s, old, new in zip(
                spacing, image.shape[1:], shape, strict=True
            )
        ),
        ori_shape=volume.shape,
        ori_spacing=volume.spacing,
        axes=axes,
        crop_box=box,
    )
    if case.labels is not None:
        labels = plan.labels.read(case.labels, like=volume)
        result['source_seg_map'] = labels
        result['gt_seg_map'] = resample_labels(
            labels.transpose(axes)[window], shape, **geometry
        )
    return result


def sample_locations(labels: np.ndarray, plan: Plan) -> dict[int, np.ndarray]:
    """Choose voxels of every class, for patches that show it.

    Args:
        labels: ``uint8`` ``S`` of the resampled grid; 255 is ignored.
        plan: Its classes.

    Returns:
        Class index to ``(n, rank)`` ``int32``; classes that do not occur
        are left out, and so is the background of a softmax. With an ignore
        label, -1 stands for all annotated voxels.
    """
    sets = plan.labels.label_sets()
    if sets is None:
        classes = range(1, plan.num_classes)
        members = {k: np.arange(256) == k for k in classes}
    else:
        members = {k: sets[:, k] == 1 for k in range(plan.num_classes)}
    if plan.labels.ignore_label is not None:
        members[-1] = np.arange(256) != IGNORE_INDEX
    rng = np.random.default_rng(0)
    locations = {}
    for k, values in members.items():
        where = np.flatnonzero(values[labels])
        if len(where):
            count = max(NUM_LOCATIONS, int(len(where) * MIN_LOCATIONS))
            if count < len(where):
                where = rng.choice(where, count, replace=False)
            found = np.unravel_index(where, labels.shape)
            locations[k] = np.stack(found, axis=1).astype(np.int32)
    return locations


def _normalize(image: np.ndarray, plan: Plan) -> np.ndarray:
    """Normalise each channel; ``(C, *S)``."""
    mask = None
    if any(plan.use_mask_for_norm):
        mask = ndimage.binary_fill_holes((image != 0).any(axis=0))
    channels = [
        normalize(
            channel,
            plan.normalization[i],
            statistics=plan.intensities[i],
            mask=mask if plan.use_mask_for_norm[i] else None,
        )
        for i, channel in enumerate(image)
    ]
    return np.stack(channels)
