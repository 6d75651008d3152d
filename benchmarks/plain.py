"""The plain form of UPerNet's head: what is re-ordered, done in order.

``ConvModule.forward`` is mmcv's convolution, norm and activation, whatever a
subclass of ours makes of it.
"""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from torch import Tensor

from upernet_ext.layers.rank import adaptive_avg_pool, resize
from upernet_ext.models import UPerHead


def plain_uper_head(head: UPerHead, features: Sequence[Tensor]) -> Tensor:
    """Compute the head's logits without re-ordering anything.

    Args:
        head: Its parameters are used, its forward passes are not.
        features: Maps ``(N, C_i, *S_i)``, finest first.

    Returns:
        ``(N, num_classes, *S_0)``.
    """

    def joined(
        module: ConvModule, maps: Sequence[Tensor], size: Sequence[int]
    ) -> Tensor:
        maps = [resize(x, size, head.align_corners) for x in maps]
        return ConvModule.forward(module, torch.cat(maps, dim=1))

    *lower, deepest = features
    pooled = [
        ConvModule.forward(conv, _pool(deepest, pool.scale))
        for pool, conv in head.psp_modules
    ]
    path = joined(head.bottleneck, [deepest, *pooled], deepest.shape[2:])
    levels = [path]
    for x, lateral, conv in zip(
        reversed(lower),
        reversed(head.lateral_convs),
        reversed(head.fpn_convs),
        strict=True,
    ):
        x = ConvModule.forward(lateral, x)
        total = x + resize(path, x.shape[2:], head.align_corners)
        level = ConvModule.forward(conv, total)
        path = level if head.top_down == 'fused' else total
        levels.insert(0, level)
    fused = joined(head.fpn_bottleneck, levels, levels[0].shape[2:])
    return head.conv_seg(head.dropout(fused) if head.dropout else fused)


def _pool(x: Tensor, scale: int) -> Tensor:
    return adaptive_avg_pool(x, [min(scale, s) for s in x.shape[2:]])
