"""Random windows of images with labels."""

from typing import Any, ClassVar

import numpy as np
from mmcv.transforms.utils import cache_randomness
from mmseg.datasets.transforms import RandomCrop as _RandomCrop

from ...registry import TRANSFORMS
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
