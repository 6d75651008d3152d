"""Our ResNet's levels and shape, as other libraries count them."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ..config import ConfigError
from ..models.backbones import ResNet


@dataclass(frozen=True)
class ResNetKind:
    """What a built ResNet is.

    Attributes:
        depths: Blocks a stage.
        bottleneck: Blocks of three convolutions.
        deep_stem: Three convolutions in the stem.
        average: Average pooling in the shortcuts.
        in_channels: Channels of the image.
        stem_channels: Channels behind the stem.
        widths: Channels of the stages.
        other: Grouped, widened or squeezed blocks, or fewer stages.
    """

    depths: tuple[int, ...]
    bottleneck: bool
    deep_stem: bool
    average: bool
    in_channels: int
    stem_channels: int
    widths: tuple[int, ...]
    other: bool


def resnet_kind(backbone: ResNet) -> ResNetKind:
    """Tell what a ResNet is from its parameters."""
    shapes = {k: tuple(v.shape) for k, v in backbone.state_dict().items()}
    stages = [n for n, _ in backbone.named_children() if n.startswith('layer')]
    bottleneck = 'layer1.0.conv3.weight' in shapes
    deep = 'conv1.0.weight' in shapes
    stem = shapes['bn1.weight'][0]
    inner = shapes[f'layer1.0.conv{2 if bottleneck else 1}.weight']
    return ResNetKind(
        depths=tuple(len(getattr(backbone, name)) for name in stages),
        bottleneck=bottleneck,
        deep_stem=deep,
        average='layer2.0.downsample.2.weight' in shapes,
        in_channels=shapes['conv1.0.weight' if deep else 'conv1.weight'][1],
        stem_channels=stem,
        widths=tuple(stem * (4 if bottleneck else 1) * 2**i for i in range(4)),
        other=len(stages) < 4
        or inner[:2] != (stem, stem)
        or any('.se.' in name for name in shapes),
    )


def levels_there(
    backbone: nn.Module, index: int | Sequence[int]
) -> int | list[int]:
    """Count levels as a library whose ResNet gives none of the stem.

    Args:
        backbone: Ours.
        index: A level or several, counted from our finest.

    Raises:
        ConfigError: It is the stem's.
    """
    if not isinstance(index, int):
        return [levels_there(backbone, i) for i in index]
    stem = isinstance(backbone, ResNet) and backbone.out_indices[0] == 0
    if stem and index == 0:
        raise ConfigError(
            "a head takes the level of the ResNet's stem, which no other "
            'library gives'
        )
    return index - 1 if stem and index > 0 else index
