"""Random windows of images with labels, resized or not."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import cv2
import mmcv
import numpy as np
from mmcv.transforms import RandomResize
from mmcv.transforms.utils import cache_randomness
from mmseg.datasets.transforms import RandomCrop as _RandomCrop

from ...registry import TRANSFORMS
from ...structures import IGNORE_INDEX
from .labels import count_values


@TRANSFORMS.register_module()
class RandomCrop(_RandomCrop):
    """mmseg's random crop, which counts labels without sorting them.

    Draws, windows and results are mmseg's. That one sorts the labels of each
    window it tries; here ``uint8`` labels are counted. Others, as
    ``LoadMask`` gives for more than 255 sets of labels, are sorted.

    Args:
        crop_size: ``(height, width)``, or one number for both. A smaller
            image is kept whole along that axis.
        cat_max_ratio: Below 1, up to ten windows are drawn until one has at
            least two classes and none of them more than this share of its
            labelled pixels; the last is taken anyhow.
        ignore_index: The label that is not counted.
    """

    # cache_randomness would add to the parent's list, a second time.
    _methods_with_randomness: ClassVar[list[str]] = []

    @cache_randomness
    def crop_bbox(self, results: dict[str, Any]) -> tuple[int, ...]:
        """Draw the window ``(top, bottom, left, right)``."""
        labels = results.get('gt_seg_map')
        if labels is None or labels.dtype != np.uint8 or labels.ndim != 2:
            return super().crop_bbox(results)
        size = results['img'].shape[:2]
        window = self._draw(size)
        if self.cat_max_ratio < 1:
            for _ in range(10):
                if self._is_mixed(self.crop(labels, window)):
                    break
                window = self._draw(size)
        return window

    def _draw(self, size: tuple[int, int]) -> tuple[int, ...]:
        margins = [
            max(have - need, 0)
            for have, need in zip(size, self.crop_size, strict=True)
        ]
        top, left = (np.random.randint(0, margin + 1) for margin in margins)
        height, width = self.crop_size
        return top, top + height, left, left + width

    def _is_mixed(self, labels: np.ndarray) -> bool:
        counts = count_values(labels)
        if 0 <= self.ignore_index < len(counts):
            counts[self.ignore_index] = 0
        share = counts.max() / max(counts.sum(), 1)
        return np.count_nonzero(counts) > 1 and share < self.cat_max_ratio


@TRANSFORMS.register_module()
class RandomResizeCrop(RandomResize, RandomCrop):
    """mmcv's RandomResize and mmseg's RandomCrop in one.

    Draws and results are theirs, one after the other. Labels are resized
    first; then the window is known, and of an image only the part above its
    lower right corner is resized.

    Args:
        scale: Of RandomResize, in pixels: ``(width, height)``, which a factor
            out of ``ratio_range`` multiplies, or two of them as bounds.
        crop_size: ``(height, width)``; see ``RandomCrop``.
        ratio_range: Smallest and largest factor.
        keep_ratio: Keep the aspect: the image becomes as large as fits into
            the scale, either way up.
        cat_max_ratio: See ``RandomCrop``.
        ignore_index: See ``RandomCrop``.
    """

    _methods_with_randomness: ClassVar[list[str]] = [
        '_random_scale',
        'crop_bbox',
    ]

    def __init__(
        self,
        scale: Sequence[int] | Sequence[Sequence[int]],
        crop_size: int | tuple[int, int],
        *,
        ratio_range: tuple[float, float] | None = None,
        keep_ratio: bool = False,
        cat_max_ratio: float = 1.0,
        ignore_index: int = IGNORE_INDEX,
    ) -> None:
        RandomResize.__init__(self, scale, ratio_range)
        RandomCrop.__init__(self, crop_size, cat_max_ratio, ignore_index)
        self.keep_ratio = keep_ratio

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Resize and crop the image and its ``seg_fields``."""
        image = results['img']
        height, width = image.shape[:2]
        size = scale = self._random_scale()
        if self.keep_ratio:
            size = mmcv.rescale_size((width, height), scale)
        fields = results.get('seg_fields', [])
        for key in fields:
            results[key] = mmcv.imresize(
                results[key], size, interpolation='nearest', backend='cv2'
            )
        # A window is drawn from the size of the image and from its labels.
        resized = np.broadcast_to(np.uint8(0), size[::-1])
        window = self.crop_bbox(dict(results, img=resized))
        for key in fields:
            results[key] = self.crop(results[key], window)
        results['img'] = _resize_window(image, size, window)
        results['img_shape'] = results['img'].shape[:2]
        results['scale'] = scale
        results['scale_factor'] = (size[0] / width, size[1] / height)
        results['keep_ratio'] = self.keep_ratio
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(scale={self.scale}, '
            f'crop_size={self.crop_size}, ratio_range={self.ratio_range}, '
            f'keep_ratio={self.keep_ratio}, '
            f'cat_max_ratio={self.cat_max_ratio}, '
            f'ignore_index={self.ignore_index})'
        )


def _resize_window(
    image: np.ndarray, size: tuple[int, int], window: tuple[int, ...]
) -> np.ndarray:
    """Cut a window out of a resized image, bit by bit.

    OpenCV takes pixel ``x`` from ``(x + 0.5) / factor - 0.5``, whatever lies
    right of it: with the same factors, the image's upper left part gives the
    upper left part of the result. In 8 bits it computes in whole numbers.

    Args:
        image: ``(H, W)`` or ``(H, W, C)``.
        size: ``(width, height)`` to resize to.
        window: ``(top, bottom, left, right)`` in the resized image.
    """
    top, bottom, left, right = window
    factors = [
        new / old for new, old in zip(size, image.shape[1::-1], strict=True)
    ]
    ends = [
        # Two more pixels: no border where the image has none.
        math.ceil((end + 0.5) / factor) + 2
        for end, factor in zip((right, bottom), factors, strict=True)
    ]
    part = image[: ends[1], : ends[0]]
    resized = None
    if image.dtype == np.uint8 and part.shape != image.shape:
        resized = cv2.resize(part, None, fx=factors[0], fy=factors[1])
    # What keeps its size OpenCV copies, whatever the factors.
    if resized is None or resized.shape[:2] == part.shape[:2]:
        resized = cv2.resize(image, size)
    return resized[top:bottom, left:right]
