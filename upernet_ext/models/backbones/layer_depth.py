"""How deep each parameter of a backbone lies.

The counting is that of mmsegmentation's
``LearningRateDecayOptimizerConstructor`` and of mmpretrain's
``get_layer_depth``.
"""

import inspect
import math
import re
from collections.abc import Callable

from mmseg.models import backbones as mmseg
from torch import nn

from ..adapters import Z_CONVS

Depth = tuple[int, int]


def _vit(backbone: nn.Module, name: str) -> Depth:
    """Embeddings 0, block ``i`` at ``i + 1``, what follows last."""
    last = len(backbone.layers) + 1
    if name.split('.')[0] in (
        'cls_token',
        'mask_token',
        'pos_embed',
        'patch_embed',
    ):
        return 0, last + 1
    if name.startswith('layers.'):
        return int(name.split('.')[1]) + 1, last + 1
    return last, last + 1


def _swin(backbone: nn.Module, name: str) -> Depth:
    """One layer a block; a patch merging belongs to the block before it."""
    depths = [len(stage.blocks) for stage in backbone.stages]
    last = sum(depths) + 1
    if name.split('.')[0] in ('patch_embed', 'absolute_pos_embed'):
        return 0, last + 1
    found = re.match(r'stages\.(\d+)\.(?:blocks\.(\d+)|downsample)', name)
    if not found:
        return last, last + 1
    stage = int(found[1])
    if found[2] is None:
        return sum(depths[: stage + 1]), last + 1
    return sum(depths[:stage]) + int(found[2]) + 1, last + 1


def _resnet(backbone: nn.Module, name: str) -> Depth:
    """Stem 0, outer stages one each, inner ones in pieces of 2 and 3 blocks.

    mmpretrain counts ResNet-50 and -101 so, and -152 in pieces of 4.
    """
    depths = backbone.stage_blocks
    piece = (4, 4) if depths[2] > 23 else (2, 3)
    inner = [math.ceil(d / p) for d, p in zip(depths[1:3], piece, strict=True)]
    last = sum(inner) + 3
    found = re.match(r'layer(\d)\.(\d+)', name)
    if not found:
        return 0, last + 1
    stage, block = int(found[1]), int(found[2])
    layer = {
        1: 1,
        2: 2 + block // piece[0],
        3: 2 + inner[0] + block // piece[1],
        4: last - 1,
    }[stage]
    return layer, last + 1


def _mobilenet_v2(backbone: nn.Module, name: str) -> Depth:
    """Stem 0, then one layer a stage."""
    found = re.match(r'layer(\d)\.', name)
    return (int(found[1]) if found else 0), len(backbone.layers) + 2


_RULES: dict[type, Callable[[nn.Module, str], Depth]] = {
    mmseg.BEiT: _vit,  # and its subclass MAE
    mmseg.VisionTransformer: _vit,
    mmseg.SwinTransformer: _swin,
    mmseg.ResNet: _resnet,
    mmseg.MobileNetV2: _mobilenet_v2,
}


def layer_depth(backbone: nn.Module, name: str) -> Depth:
    """Tell how deep a parameter of a backbone lies.

    Args:
        backbone: One with ``get_layer_depth(name)`` (ours and mmpretrain's),
            or mmseg's ViT, BEiT, MAE, Swin, ResNet or MobileNetV2.
        name: Of the parameter, inside the backbone.

    Returns:
        The layer, 0 for the stem, and the number of layers; the last one is
        that of the heads.

    Raises:
        ValueError: There is no rule for this backbone.
    """
    if name.startswith(Z_CONVS):
        # They stand behind the network, as new as the heads.
        names = (n for n, _ in backbone.named_parameters())
        known = next(n for n in names if not n.startswith(Z_CONVS))
        num_layers = layer_depth(backbone, known)[1]
        return num_layers - 1, num_layers
    tell = getattr(backbone, 'get_layer_depth', None)
    if tell is not None:
        if 'prefix' in inspect.signature(tell).parameters:
            # mmpretrain's ResNet only knows names that start like this.
            return tell(f'backbone.{name}', prefix='backbone.')
        return tell(name)
    for cls, rule in _RULES.items():
        if isinstance(backbone, cls):
            return rule(backbone, name)
    raise ValueError(
        f'layer_decay_rate, and freezing the first blocks, need the depth of '
        f'each parameter, and {type(backbone).__name__} does not tell it; '
        'give the class a method get_layer_depth(name) -> (layer, number of '
        'layers), or leave the option out'
    )
