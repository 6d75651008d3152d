"""Keep published weights as they are: all, the first blocks, all but norms."""

from collections.abc import Iterator
from typing import Literal

from mmcv.cnn import is_norm
from torch import nn

from ..backbones.layer_depth import layer_depth


def freeze(
    backbone: nn.Module, *, what: int | Literal['all', 'all_but_norms']
) -> list[nn.Module]:
    """Freeze a backbone or a part of it.

    What no published weights have (the backbone's ``added_keys``) is trained.

    Args:
        backbone: Its parameters are marked, nothing else is changed.
        what: ``'all'``; ``'all_but_norms'``; or ``k``: the embeddings (or
            stem) and the first ``k`` blocks, as ``layer_depth`` counts.

    Returns:
        The modules to keep in evaluation mode, so that they drop nothing and
        collect no statistics: those whose parameters are all frozen, and
        those without parameters that stand behind them.

    Raises:
        ValueError: An unknown ``what``, or more blocks than there are.
    """
    names = _frozen_names(backbone, what)
    for name, parameter in backbone.named_parameters():
        if name in names:
            parameter.requires_grad_(False)
    return list(_frozen_modules(backbone))


def added_names(backbone: nn.Module) -> set[str]:
    """Name the parameters that a backbone has beyond its published weights.

    Those that begin with one of its ``added_keys``: what a network for images
    got on its way to volumes.
    """
    added = tuple(getattr(backbone, 'added_keys', ()))
    names = (name for name, _ in backbone.named_parameters())
    return {name for name in names if name.startswith(added)}


def _frozen_names(
    backbone: nn.Module, what: int | Literal['all', 'all_but_norms']
) -> set[str]:
    names = {name for name, _ in backbone.named_parameters()}
    names -= added_names(backbone)
    if what == 'all':
        return names
    if what == 'all_but_norms':
        norms = tuple(
            f'{name}.'
            for name, module in backbone.named_modules()
            if is_norm(module) or isinstance(module, nn.RMSNorm)
        )
        return {name for name in names if not name.startswith(norms)}
    if isinstance(what, bool) or not isinstance(what, int):
        raise ValueError(
            "tuning.what must be 'all', 'all_but_norms' or the number of the "
            f'first blocks to freeze, got {what!r}'
        )
    depths = {name: layer_depth(backbone, name) for name in names}
    # The stem and what follows are counted beside the blocks.
    blocks = max(total for _, total in depths.values()) - 2
    if not 0 <= what <= blocks:
        raise ValueError(
            f'tuning.what={what}, but {type(backbone).__name__} has {blocks} '
            'blocks'
        )
    return {name for name, (depth, _) in depths.items() if depth <= what}


def _frozen_modules(backbone: nn.Module) -> Iterator[nn.Module]:
    """Yield modules without trainable parameters, a parent first.

    A module that has none at all (dropout, stochastic depth) goes with the
    parameters before it.
    """
    frozen = False
    for module in backbone.modules():
        own = [p.requires_grad for p in module.parameters(recurse=False)]
        if own:
            frozen = not any(own)
        inside = [p.requires_grad for p in module.parameters()]
        if not any(inside) if inside else frozen:
            yield module
