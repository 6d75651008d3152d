"""Whose axes come in which order, and who may touch them.

mmcv's and mmseg's transforms know images ``(H, W, C)``; a volume
``(C, D, H, W)``, or its slice ``(C, H, W)``, runs through some of them and
comes out turned against its labels.
"""

from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

# What OpenCV mirrors, with at most four channels.
_MIRRORED_TYPES = ('uint8', 'uint16', 'float32')

_INSTEAD = {
    'RandomFlip': 'upernet_ext.RandomMirror',
    'RandomCrop': 'upernet_ext.CropPatch',
    'Pad': 'upernet_ext.CropPatch, which pads',
    'RandomRotate': 'upernet_ext.CropPatch(rotation_prob=0.2)',
    'RandomResize': 'upernet_ext.CropPatch(scaling_prob=0.2)',
    'Resize': 'upernet_ext.LoadCase, which resamples to the spacing of the '
    'plan',
    'Normalize': 'upernet_ext.LoadCase, which normalises',
    'PhotoMetricDistortion': 'upernet_ext.RandomBrightness, RandomContrast '
    'and RandomGamma',
    'PackSegInputs': 'upernet_ext.PackInputs',
}
_ANYTHING = (
    "upernet_ext.CropPatch and RandomMirror, or MONAI's: dict(type="
    "'monai.RandAffined')"
)


def is_channels_first(results: dict[str, Any]) -> bool:
    """Whether ``img`` is ``(C, *S)``: a volume, or a slice of one."""
    image = results.get('img')
    return image is not None and (
        np.ndim(image) == 4 or bool(results.get('channels_first'))
    )


def channels_first_image(results: dict[str, Any], name: str) -> np.ndarray:
    """Return ``img``, which must be ``(C, *S)``.

    Args:
        results: The sample.
        name: Of the transform, for messages.

    Raises:
        ValueError: It is an image ``(H, W, C)``.
    """
    if not is_channels_first(results):
        raise ValueError(
            f'{results.get("img_path")}: {name} takes volumes (C, D, H, W) '
            'and slices (C, H, W), as upernet_ext.LoadCase gives them, but '
            f'the image is {np.shape(results.get("img"))} and its sample has '
            "no channels_first=True; take mmseg's 2D transforms for images "
            '(H, W, C)'
        )
    return results['img']


def contiguous(image: np.ndarray) -> np.ndarray:
    """Copy a mirrored view ``(H, W)`` or ``(H, W, C)``; keep anything else.

    mmcv's RandomFlip gives views with negative strides. numpy takes forty
    times as long as OpenCV to copy one of three channels.
    """
    mirrored = [stride < 0 for stride in image.strides[:2]]
    if not any(mirrored):
        return image
    if image.dtype not in _MIRRORED_TYPES or image.shape[2:] > (4,):
        return np.ascontiguousarray(image)
    rows, columns = (slice(None, None, -1 if m else 1) for m in mirrored)
    # 0 turns rows, 1 columns, -1 both.
    code = {(True, False): 0, (False, True): 1, (True, True): -1}
    flipped = cv2.flip(image[rows, columns], code[tuple(mirrored)])
    return flipped.reshape(image.shape)


def refuse_2d_transform(transform: Callable, results: dict[str, Any]) -> None:
    """Raise if a transform of mmcv or mmseg is to change a volume.

    Those inside of wrappers (``RandomApply``, ``RandomChoice``) count too.

    Raises:
        ValueError: It names what to use instead.
    """
    if not is_channels_first(results):
        return
    for leaf in _leaves(transform):
        kinds = [kind for kind in type(leaf).__mro__ if _is_2d(kind)]
        if kinds:
            names = [kind.__name__ for kind in kinds]
            instead = [_INSTEAD[name] for name in names if name in _INSTEAD]
            raise ValueError(
                f'{results.get("img_path")}: {type(leaf).__name__} is for '
                'images (H, W, C) and would separate a volume of shape '
                f'{results["img"].shape} from its labels; use '
                f'{instead[0] if instead else _ANYTHING}'
            )


def _leaves(transform: Callable) -> Iterator[Callable]:
    parts = getattr(transform, 'transforms', None)
    if parts is None:
        yield transform
        return
    for part in parts:
        yield from _leaves(part)


def _is_2d(kind: type) -> bool:
    return (
        kind.__module__.startswith(
            ('mmcv.transforms.', 'mmseg.datasets.transforms.')
        )
        and kind.__module__ != 'mmcv.transforms.base'
    )
