"""Colour augmentation that keeps the type of the image."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from mmseg.datasets.transforms import (
    PhotoMetricDistortion as _PhotoMetricDistortion,
)

from ...registry import TRANSFORMS
from ..layout import contiguous

_VALUES = np.arange(256, dtype=np.uint8)


@TRANSFORMS.register_module()
class PhotoMetricDistortion(_PhotoMetricDistortion):
    """mmseg's photometric distortion for any image ``LoadImage`` gives.

    On 8-bit BGR images it is mmseg's, draw by draw and bit by bit: what its
    arithmetic makes of the 256 values is looked up. mmseg's turns ``float32``
    images into nearly grey ones (its HSV saturation is 0..1, and rounded) and
    stops at images without three channels. Here ``float32`` stays
    ``float32``, and only brightness and contrast change where there is no
    colour. Arguments are mmseg's: ``brightness_delta=32, contrast_range=(0.5,
    1.5), saturation_range=(0.5, 1.5), hue_delta=18``.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Distort ``results['img']``."""
        image = contiguous(results['img'])
        if image.dtype == np.uint8:
            results['img'] = _look_up(image, self._draw(_has_color(image)))
            return results
        results['img'] = image
        return super().transform(results)

    def _draw(self, has_color: bool) -> list[tuple[int | None, np.ndarray]]:
        """Draw the steps for 8 bits, in the order of mmseg's draws.

        Returns:
            Which channel of HSV a step changes, or ``None`` for all of BGR,
            and what its 256 values become.
        """
        steps = [(None, self.brightness(_VALUES))]
        is_contrast_last = np.random.randint(2) == 0
        if not is_contrast_last:
            steps.append((None, self.contrast(_VALUES)))
        if has_color and np.random.randint(2):
            factor = np.random.uniform(
                self.saturation_lower, self.saturation_upper
            )
            steps.append((1, self.convert(_VALUES, alpha=factor)))
        if has_color and np.random.randint(2):
            turn = np.random.randint(-self.hue_delta, self.hue_delta)
            # OpenCV's 8-bit hue is half the degrees.
            hues = (_VALUES.astype(int) + turn) % 180
            steps.append((0, hues.astype(np.uint8)))
        if is_contrast_last:
            steps.append((None, self.contrast(_VALUES)))
        return steps

    def convert(
        self, img: np.ndarray, alpha: float = 1, beta: float = 0
    ) -> np.ndarray:
        """Return ``img * alpha + beta`` within 0..255, in its own type."""
        scaled = img.astype(np.float32) * alpha + beta
        return np.clip(scaled, 0, 255).astype(img.dtype)

    def saturation(self, img: np.ndarray) -> np.ndarray:
        """Change the saturation of a ``float32`` image, if it has colour."""
        if _has_color(img) and np.random.randint(2):
            factor = np.random.uniform(
                self.saturation_lower, self.saturation_upper
            )
            hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
            hsv[..., 1] = np.clip(hsv[..., 1] * factor, 0, 1)
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        return img

    def hue(self, img: np.ndarray) -> np.ndarray:
        """Turn the hue of a ``float32`` image, if it has colour."""
        if _has_color(img) and np.random.randint(2):
            # OpenCV's 8-bit hue, the unit of hue_delta, is half the degrees.
            turn = 2 * np.random.randint(-self.hue_delta, self.hue_delta)
            hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
            hsv[..., 0] = (hsv[..., 0] + turn) % 360
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        return img


def _has_color(img: np.ndarray) -> bool:
    return img.ndim == 3 and img.shape[2] == 3


def _look_up(
    image: np.ndarray, steps: Sequence[tuple[int | None, np.ndarray]]
) -> np.ndarray:
    """Apply the tables; those of BGR that follow one another as one."""
    pending = _VALUES
    for channel, table in steps:
        if channel is None:
            pending = table[pending]
            continue
        hsv = cv2.cvtColor(_replace(image, pending), cv2.COLOR_BGR2HSV)
        pending = _VALUES
        planes = list(cv2.split(hsv))
        planes[channel] = cv2.LUT(planes[channel], table)
        cv2.merge(planes, hsv)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    return _replace(image, pending)


def _replace(image: np.ndarray, table: np.ndarray) -> np.ndarray:
    if np.array_equal(table, _VALUES):
        return image
    return cv2.LUT(image, table).reshape(image.shape)
