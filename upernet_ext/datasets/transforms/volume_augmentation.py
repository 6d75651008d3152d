"""nnU-Net's augmentation of patches, for any rank.

The defaults are nnU-Net v2's (nnUNetTrainer.py, ``get_training_transforms``)
and what they mean is batchgeneratorsv2's, https://github.com/MIC-DKFZ.
MONAI's transforms of similar names treat all channels alike, draw from other
distributions, or have no such thing (contrast that keeps the range). In
what order they run is in configs/_base_/datasets/volumes.py.

Images are normalised ``float32`` ``(C, *S)``; every channel draws its own.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from torch.nn import functional as F  # noqa: N812

from ...layers.rank import resize
from ...registry import TRANSFORMS
from ..layout import channels_first_image
from .patch import is_anisotropic


class _RandomIntensity(BaseTransform):
    """Change the values of some channels of some samples.

    Args:
        prob: Share of the samples.
        limits: What is drawn from, uniformly unless said otherwise.
        channel_prob: Share of the channels of these samples.
    """

    def __init__(
        self, prob: float, limits: tuple[float, float], channel_prob: float
    ) -> None:
        if limits[0] > limits[1]:
            raise ValueError(
                f'{type(self).__name__}: a range is (low, high), got {limits}'
            )
        self.prob = prob
        self.limits = tuple(limits)
        self.channel_prob = channel_prob

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Change a copy of ``results['img']``."""
        name = type(self).__name__
        image = channels_first_image(results, name)
        if image.dtype.kind != 'f':
            raise ValueError(
                f'{results.get("img_path")}: {name} needs a normalised image '
                f'of type float32, got {image.dtype}; load cases with '
                'upernet_ext.LoadCase'
            )
        if np.random.rand() < self.prob:
            results['img'] = np.array(image, np.float32)
            chosen = np.random.rand(len(image)) < self.channel_prob
            self.change(torch.from_numpy(results['img']), chosen.nonzero()[0])
        return results

    def change(self, image: torch.Tensor, channels: np.ndarray) -> None:
        """Overwrite some channels of ``(C, *S)``."""
        for c in channels:
            image[c] = self.change_channel(image[c])

    def change_channel(self, channel: torch.Tensor) -> torch.Tensor:
        """Return the channel ``S`` changed; it may be overwritten."""
        raise NotImplementedError

    def draw(self) -> float:
        """Draw from the limits."""
        return np.random.uniform(*self.limits)

    def draw_around_one(self) -> float:
        """Draw a factor, as often below 1 as above it."""
        low, high = self.limits
        if low < 1 < high:
            low, high = (low, 1) if np.random.rand() < 0.5 else (1, high)
        return np.random.uniform(low, high)

    def __repr__(self) -> str:
        values = ', '.join(f'{k}={v}' for k, v in vars(self).items())
        return f'{type(self).__name__}({values})'


@TRANSFORMS.register_module()
class RandomGaussianNoise(_RandomIntensity):
    """Add noise, the same to every channel.

    Args:
        prob: Share of the samples.
        std: Standard deviation, from and to.
    """

    def __init__(
        self, prob: float = 0.1, std: tuple[float, float] = (0.0, 0.1)
    ) -> None:
        super().__init__(prob, std, 1.0)

    def change(self, image: torch.Tensor, channels: np.ndarray) -> None:
        """Add one noise to all channels."""
        noise = np.random.normal(0, self.draw(), image.shape[1:])
        image += torch.from_numpy(noise.astype(np.float32))


@TRANSFORMS.register_module()
class RandomGaussianBlur(_RandomIntensity):
    """Blur with a Gaussian, another one along every axis.

    Args:
        prob: Share of the samples.
        sigma: Standard deviation in voxels, from and to.
        channel_prob: Share of the channels of these samples.
    """

    def __init__(
        self,
        prob: float = 0.2,
        sigma: tuple[float, float] = (0.5, 1.0),
        *,
        channel_prob: float = 0.5,
    ) -> None:
        super().__init__(prob, sigma, channel_prob)

    def change_channel(self, channel: torch.Tensor) -> torch.Tensor:
        """Blur ``S``, reflected at its border, up to 3 sigma."""
        for axis in range(channel.ndim):
            channel = _blur_axis(channel, axis, self.draw())
        return channel


@TRANSFORMS.register_module()
class RandomBrightness(_RandomIntensity):
    """Multiply the values.

    Args:
        prob: Share of the samples.
        factor: From and to; as often below 1 as above it.
    """

    def __init__(
        self, prob: float = 0.15, factor: tuple[float, float] = (0.75, 1.25)
    ) -> None:
        super().__init__(prob, factor, 1.0)

    def change_channel(self, channel: torch.Tensor) -> torch.Tensor:
        """Multiply ``S``."""
        return channel.mul_(self.draw_around_one())


@TRANSFORMS.register_module()
class RandomContrast(_RandomIntensity):
    """Multiply the distance to the mean; smallest and largest value stay.

    Args:
        prob: Share of the samples.
        factor: From and to; as often below 1 as above it.
    """

    def __init__(
        self, prob: float = 0.15, factor: tuple[float, float] = (0.75, 1.25)
    ) -> None:
        super().__init__(prob, factor, 1.0)

    def change_channel(self, channel: torch.Tensor) -> torch.Tensor:
        """Stretch ``S`` about its mean, within its range."""
        low, high = channel.aminmax()
        mean = channel.mean()
        stretched = channel.sub_(mean).mul_(self.draw_around_one()).add_(mean)
        return stretched.clamp_(low, high)


@TRANSFORMS.register_module()
class RandomLowResolution(_RandomIntensity):
    """Take fewer voxels, the nearest, and interpolate linearly back.

    The first axis of an anisotropic patch (``is_anisotropic``) stays.

    Args:
        prob: Share of the samples.
        scale: Share of the voxels along an axis that is kept, from and to.
        channel_prob: Share of the channels of these samples.
    """

    def __init__(
        self,
        prob: float = 0.25,
        scale: tuple[float, float] = (0.5, 1.0),
        *,
        channel_prob: float = 0.5,
    ) -> None:
        super().__init__(prob, scale, channel_prob)

    def change_channel(self, channel: torch.Tensor) -> torch.Tensor:
        """Resample ``S`` to fewer voxels and back."""
        scale = self.draw()
        small = [max(round(n * scale), 1) for n in channel.shape]
        if is_anisotropic(channel.shape):
            small[0] = channel.shape[0]
        few = F.interpolate(channel[None, None], small, mode='nearest-exact')
        return resize(few, channel.shape)[0, 0]


@TRANSFORMS.register_module()
class RandomGamma(_RandomIntensity):
    """Raise the values, scaled to 0..1, to a power.

    Mean and standard deviation stay as they are.

    Args:
        prob: Share of the samples.
        gamma: The power, from and to; as often below 1 as above it.
        invert: Change the negative of the image.
    """

    def __init__(
        self,
        prob: float = 0.3,
        gamma: tuple[float, float] = (0.7, 1.5),
        *,
        invert: bool = False,
    ) -> None:
        super().__init__(prob, gamma, 1.0)
        self.invert = invert

    def change_channel(self, channel: torch.Tensor) -> torch.Tensor:
        """Bend the values of ``S``."""
        # Faster, one after the other, than std_mean.
        mean, std = channel.mean(), channel.std(correction=0)
        low, high = channel.aminmax()
        if self.invert:
            channel = channel.sub_(high).neg_()
        else:
            channel = channel.sub_(low)
        span = (high - low).clamp(min=1e-7)
        bent = channel.div_(span).pow_(self.draw_around_one())
        factor = std / bent.std(correction=0).clamp(min=1e-7)
        if self.invert:
            factor = -factor
        return bent.sub_(bent.mean()).mul_(factor).add_(mean)


@TRANSFORMS.register_module()
class RandomMirror(BaseTransform):
    """Mirror image and labels, along each axis half of the time.

    Args:
        axes: Of ``S``; 0 is its first, -1 its last, ``None`` for all.
            Mirroring at test time (``test_cfg.tta.flip_axes``) should keep to
            them, too.
        prob: Of mirroring, for each axis.

    Raises:
        ValueError: The image has no such axis.
    """

    def __init__(
        self, axes: Sequence[int] | None = None, prob: float = 0.5
    ) -> None:
        self.axes = None if axes is None else tuple(axes)
        self.prob = prob

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Mirror ``img`` and ``gt_seg_map``."""
        image = channels_first_image(results, 'RandomMirror')
        rank = image.ndim - 1
        axes = range(rank) if self.axes is None else self.axes
        if not set(axes) <= set(range(-rank, rank)):
            raise ValueError(
                f'{results.get("img_path")}: RandomMirror(axes={self.axes}) '
                f'on an image of rank {rank}, whose axes are {-rank} to '
                f'{rank - 1}'
            )
        # Counted from the end they are the same with and without C.
        axes = {axis % rank - rank for axis in axes}
        axes = [axis for axis in sorted(axes) if np.random.rand() < self.prob]
        if axes:
            for key in {'img', 'gt_seg_map'} & results.keys():
                flipped = np.flip(results[key], axes)
                results[key] = np.ascontiguousarray(flipped)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(axes={self.axes}, prob={self.prob})'


def _blur_axis(channel: torch.Tensor, axis: int, sigma: float) -> torch.Tensor:
    radius = max(round(3 * sigma), 1)
    size = channel.shape[axis]
    pads = [(0, 0)] * channel.ndim
    pads[axis] = (radius, radius)
    padded = torch.from_numpy(np.pad(channel.numpy(), pads, mode='reflect'))
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    weights /= weights.sum()
    blurred = torch.zeros_like(channel)
    for offset, weight in enumerate(weights.tolist()):
        blurred.add_(padded.narrow(axis, offset, size), alpha=weight)
    return blurred
