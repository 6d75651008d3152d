"""Colour augmentation that keeps the type of the image."""

import cv2
import numpy as np
from mmseg.datasets.transforms import (
    PhotoMetricDistortion as _PhotoMetricDistortion,
)

from ...registry import TRANSFORMS


@TRANSFORMS.register_module()
class PhotoMetricDistortion(_PhotoMetricDistortion):
    """mmseg's photometric distortion for any image ``LoadImage`` gives.

    On 8-bit BGR images it is mmseg's. That one turns ``float32`` images into
    nearly grey ones (its HSV saturation is 0..1, and rounded) and stops at
    images without three channels. Here ``float32`` stays ``float32``, and
    only brightness and contrast change where there is no colour. Arguments
    are mmseg's: ``brightness_delta=32, contrast_range=(0.5, 1.5),
    saturation_range=(0.5, 1.5), hue_delta=18``.
    """

    def convert(
        self, img: np.ndarray, alpha: float = 1, beta: float = 0
    ) -> np.ndarray:
        """Return ``img * alpha + beta`` within 0..255, in its own type."""
        scaled = img.astype(np.float32) * alpha + beta
        return np.clip(scaled, 0, 255).astype(img.dtype)

    def saturation(self, img: np.ndarray) -> np.ndarray:
        """Change the saturation of a BGR image ``(H, W, 3)``."""
        if not _has_color(img):
            return img
        if img.dtype == np.uint8:
            return super().saturation(img)
        if np.random.randint(2):
            factor = np.random.uniform(
                self.saturation_lower, self.saturation_upper
            )
            hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
            hsv[..., 1] = np.clip(hsv[..., 1] * factor, 0, 1)
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        return img

    def hue(self, img: np.ndarray) -> np.ndarray:
        """Turn the hue of a BGR image ``(H, W, 3)``."""
        if not _has_color(img):
            return img
        if img.dtype == np.uint8:
            return super().hue(img)
        if np.random.randint(2):
            # OpenCV's 8-bit hue, the unit of hue_delta, is half the degrees.
            turn = 2 * np.random.randint(-self.hue_delta, self.hue_delta)
            hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV)
            hsv[..., 0] = (hsv[..., 0] + turn) % 360
            img = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        return img


def _has_color(img: np.ndarray) -> bool:
    return img.ndim == 3 and img.shape[2] == 3
