"""What an encoder tells of itself: its pyramid, weights and licence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

# Mean and standard deviation of ImageNet, RGB, on the scale 0..255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


class PyramidLevel(NamedTuple):
    """One map of an encoder.

    Attributes:
        channels: Channels of the map.
        stride: Pixels of the image a pixel of the map, one number an axis.
        shape: ``(channels, *S)`` for the input the model was built for;
            ``None`` where no input size is known.
    """

    channels: int
    stride: tuple[float, ...]
    shape: tuple[int, ...] | None = None


class PyramidEncoder:
    """Tell ``pyramid_outputs`` from ``out_channels`` and ``out_strides``."""

    out_channels: tuple[int, ...]
    out_strides: tuple[tuple[float, ...], ...]

    # Not a property: who knows the size of the input may set it, with shapes.
    @cached_property
    def pyramid_outputs(self) -> dict[str, PyramidLevel]:
        """``P1`` (finest) to ``Pn``: channels and strides of the maps."""
        levels = zip(self.out_channels, self.out_strides, strict=True)
        return {
            f'P{i}': PyramidLevel(channels, tuple(stride))
            for i, (channels, stride) in enumerate(levels, 1)
        }


def select_levels(
    out_indices: Sequence[int] | None, num_levels: int
) -> tuple[int, ...]:
    """Resolve ``out_indices``: ``None`` is all, -1 the coarsest level.

    Raises:
        ValueError: They do not rise, or name a level that is not there.
    """
    wanted = range(num_levels) if out_indices is None else out_indices
    levels = tuple(i + num_levels if i < 0 else i for i in wanted)
    if not levels or list(levels) != sorted(
        set(levels) & set(range(num_levels))
    ):
        raise ValueError(
            f'out_indices={tuple(wanted)} must rise and lie in '
            f'[0, {num_levels}): this network has {num_levels} levels'
        )
    return levels


def timm_weights(name: str) -> str:
    """Address of weights that timm publishes, as ``resnet50.a1_in1k``."""
    return f'https://huggingface.co/timm/{name}/resolve/main/model.safetensors'


@dataclass(frozen=True)
class Encoder:
    """An entry of the table of encoders.

    Attributes:
        family: Such as ``'resnet'`` or ``'dinov3'``.
        backbone: Config for the backbone door, without ``pretrained``,
            ``in_channels`` and ``spatial_dims``.
        source: Paper or code that the network is from.
        spatial_dims: Ranks it can be built for.
        weights: What ``pretrained`` takes for the published weights;
            ``None`` where there are none that can be had by a URL.
        weights_page: Where to get them where there is no URL, or gated ones.
        licence: Of the weights.
        mean: Of the images the weights were trained on, RGB, 0..255.
        std: Of the same.
        neck: Config of the neck that makes a pyramid of a plain ViT's maps.
        reference: What its numbers are compared with in the tests.
        requires: Library beyond the core's that it is built with.
    """

    family: str
    backbone: Mapping
    source: str
    spatial_dims: tuple[int, ...] = (2,)
    weights: str | Mapping | None = None
    weights_page: str = ''
    licence: str = ''
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    neck: Mapping | None = None
    reference: str = ''
    requires: str = ''
