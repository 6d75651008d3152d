"""Weights of a 2D network for the same network of volumes.

What a volume of identical slices gives is, at every depth, what the 2D
network gives of the slice: a kernel goes into the middle of a deeper one, and
the slices around it start as nothing (the mean over the depth, as I3D, would
be exact only without zeros around the map). Patches lie side by side, so their
kernels are spread over the depth of a patch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .receipt import Change

_WHY = {
    'centre': 'inflated: the 2D kernel in the middle of the depth',
    'mean': 'inflated: the mean over the depth of a patch',
    'copy': 'inflated: the same for every slice that it makes',
}


def inflation_rules(module: nn.Module) -> dict[str, str]:
    """Tell how the weight of each convolution of a volume is inflated.

    Returns:
        Name of the weight -> ``'centre'`` for odd depths, ``'mean'`` for
        patches side by side, ``'copy'`` for transposed ones. A convolution
        that is none of these has no rule.
    """
    rules = {}
    for name, layer in module.named_modules():
        weight = getattr(layer, 'weight', None)
        if not hasattr(layer, 'kernel_size') or getattr(weight, 'ndim', 0) < 5:
            continue
        depth, side_by_side = (
            layer.kernel_size[0],
            (layer.kernel_size == layer.stride),
        )
        key = f'{name}.weight'.removeprefix('.')
        if getattr(layer, 'transposed', False):
            if side_by_side:
                rules[key] = 'copy'
        elif side_by_side and depth > 1:
            rules[key] = 'mean'
        elif depth % 2:
            rules[key] = 'centre'
    return rules


def inflate_kernel(weight: Tensor, depth: int, rule: str) -> Tensor:
    """Give a kernel a depth.

    Args:
        weight: ``(out, in, h, w)``.
        depth: In voxels.
        rule: See ``inflation_rules``.

    Returns:
        ``(out, in, depth, h, w)``.
    """
    new = weight.unsqueeze(2)
    if rule == 'centre':
        empty = torch.zeros_like(new).repeat_interleave(depth // 2, 2)
        return torch.cat([empty, new, empty], 2)
    new = new.repeat_interleave(depth, 2)
    return new / depth if rule == 'mean' else new


def inflate(
    state_dict: Mapping[str, Tensor],
    module: nn.Module,
    wanted: Mapping[str, str] | None = None,
) -> tuple[dict[str, Tensor], list[Change]]:
    """Inflate what a module has as kernels of a volume, and a file in 2D.

    Args:
        state_dict: Names and tensors of a file, under our names.
        module: That they are for.
        wanted: Name in the file -> name in the module, where they differ.

    Returns:
        The state dict and what was changed. Other tensors, and kernels of
        another size in the plane, stay as they are.
    """
    own, rules = module.state_dict(), inflation_rules(module)
    names = wanted or {name: name for name in own}
    inflated, changes = dict(state_dict), []
    for name, value in state_dict.items():
        rule = rules.get(names.get(name, ''))
        if rule is None or value.ndim != 4:
            continue
        shape = own[names[name]].shape
        if value.shape[0] != shape[0] or value.shape[2:] != shape[3:]:
            continue
        new = inflated[name] = inflate_kernel(value, shape[2], rule)
        changes.append(
            Change(
                name,
                'reshaped',
                tuple(value.shape),
                tuple(new.shape),
                _WHY[rule],
            )
        )
    return inflated, changes
