"""Intensities, channel by channel, by nnU-Net's schemes.

Facts: nnunetv2/preprocessing/normalization of
https://github.com/MIC-DKFZ/nnUNet. A dataset.json chooses the scheme by the
channel's name, in capitals or not; any other than those of ``SCHEMES`` means
z-score.
"""

from collections.abc import Mapping

import numpy as np

# Name in dataset.json -> name in nnUNetPlans.json.
SCHEMES = {
    'ct': 'CTNormalization',
    'nonorm': 'NoNormalization',
    'zscore': 'ZScoreNormalization',
    'rescale_to_0_1': 'RescaleTo01Normalization',
    'rgb_to_0_1': 'RGBTo01Normalization',
}
EPS = 1e-8


def scheme_of(channel_name: str) -> str:
    """Return the scheme of a channel by its name in dataset.json."""
    name = channel_name.casefold()
    # Its name in nnU-Net's first releases.
    name = name.replace('rescale_0_1', 'rescale_to_0_1')
    return name if name in SCHEMES else 'zscore'


def normalize(
    image: np.ndarray,
    scheme: str,
    *,
    statistics: Mapping[str, float] | None = None,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """Normalise one channel of one case.

    Args:
        image: ``float32``, any shape.
        scheme: A key of ``SCHEMES``. ``'zscore'`` takes mean and standard
            deviation of this image; ``'ct'`` clips to the 0.5 and 99.5
            percentiles of the foreground of all training cases and takes
            their mean and deviation; ``'rescale_to_0_1'`` stretches this
            image's minimum and maximum; ``'rgb_to_0_1'`` divides by 255.
        statistics: Of the foreground: ``mean``, ``std``,
            ``percentile_00_5``, ``percentile_99_5``; for ``'ct'``.
        mask: Where the image is not empty: ``'zscore'`` then measures and
            changes these voxels only.

    Returns:
        A new ``float32`` array.

    Raises:
        ValueError: Values of ``'rgb_to_0_1'`` are outside 0..255.
    """
    image = image.astype(np.float32)
    if scheme == 'zscore':
        chosen = slice(None) if mask is None else mask
        part = image[chosen]
        image[chosen] = (part - part.mean()) / max(part.std(), EPS)
    elif scheme == 'ct':
        low, high = (statistics[f'percentile_{p}'] for p in ('00_5', '99_5'))
        image = np.clip(image, low, high, dtype=np.float32)
        image = (image - statistics['mean']) / max(statistics['std'], EPS)
    elif scheme == 'rescale_to_0_1':
        image -= image.min()
        image /= max(image.max(), EPS)
    elif scheme == 'rgb_to_0_1':
        if image.min() < 0 or image.max() > 255:
            raise ValueError(
                'rgb_to_0_1 needs values in 0..255, got '
                f'{image.min():g} to {image.max():g}'
            )
        image /= 255
    elif scheme != 'nonorm':
        raise ValueError(
            f'normalisation {scheme!r} is none of {tuple(SCHEMES)}'
        )
    return image.astype(np.float32, copy=False)
