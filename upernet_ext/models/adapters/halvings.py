"""Along which axes each of a network's five halvings happens.

A thick slice is not halved before the plane has become as coarse. The rule is
nnU-Net's (get_pool_and_conv_props in
nnunetv2/experiment_planning/experiment_planners/network_topology.py of
MIC-DKFZ/nnUNet at 04f3cfc), except that there are always five halvings: an
axis is halved while its spacing is less than twice the finest one, and while
the patch leaves it four voxels; kernels are one voxel deep along an axis until
it is halved for the first time.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ...layers.maps import as_maps

Halvings = tuple[tuple[int, ...], ...]
ISOTROPIC: Halvings = ((2, 2, 2),) * 5
# Voxels an axis that nnU-Net leaves its deepest map.
_LEAST = 4
# Edge of the volume, without memory, that finds the strides of a network.
_PROBE = 224


def plan_halvings(
    spacing: Sequence[float],
    patch_shape: Sequence[int] | None = None,
    *,
    number: int = 5,
) -> Halvings:
    """Decide which axes each halving halves.

    Args:
        spacing: Of the voxels, (z, y, x), in mm.
        patch_shape: Voxels an axis of what the network sees in training;
            by default the axes are as long as they need to be.
        number: Of halvings.

    Returns:
        2 or 1 an axis, for each halving: ``((1, 2, 2), (2, 2, 2), ...)``.

    Raises:
        ValueError: A spacing that is no length, or another number of axes.
    """
    now, left = list(spacing), list(patch_shape or [sys.maxsize] * 3)
    if len(now) != 3 or len(left) != 3 or not all(s > 0 for s in now):
        raise ValueError(
            'spacing must be three positive numbers of mm (z, y, x), and '
            f'patch_shape three numbers of voxels; got {tuple(spacing)} and '
            f'{patch_shape}'
        )
    halvings = []
    for _ in range(number):
        long = [n >= 2 * _LEAST for n in left]
        if not any(long):
            long = [True] * 3  # a network cannot stop where nnU-Net does
        finest = min(s for s, enough in zip(now, long, strict=True) if enough)
        factors = tuple(
            2 if enough and s / finest < 2 else 1
            for s, enough in zip(now, long, strict=True)
        )
        now = [s * f for s, f in zip(now, factors, strict=True)]
        left = [
            n if f == 1 else -(-n // f)
            for n, f in zip(left, factors, strict=True)
        ]
        halvings.append(factors)
    return tuple(halvings)


def check_halvings(halvings: Sequence[Sequence[int]]) -> Halvings:
    """Return what a config gives as tuples.

    Raises:
        ValueError: It is no list of five times three ones and twos.
    """
    found = tuple(tuple(factors) for factors in halvings)
    if len(found) != 5 or any(
        len(f) != 3 or not set(f) <= {1, 2} for f in found
    ):
        raise ValueError(
            'backbone.halvings must be five triples (z, y, x) of 1 and 2, '
            f'such as [(1, 2, 2), (2, 2, 2), ...]; got {halvings}'
        )
    return found


def _product(halvings: Halvings, axis: int) -> int:
    return math.prod(factors[axis] for factors in halvings)


def stretched(stride: Sequence[float], halvings: Halvings) -> tuple[int, ...]:
    """Tell what becomes of a stride ``(s, s, s)``, a power of two."""
    done = halvings[: round(math.log2(stride[-1]))]
    return tuple(_product(done, axis) for axis in range(3))


def depth_stride(stride: Sequence[float], halvings: Halvings) -> int:
    """Tell the stride along z that goes with one of a plane.

    Args:
        stride: ``(y, x)`` of a 2D network, of any size (14 of a ViT).
        halvings: As far as they have made the plane that coarse.
    """
    plane = stride[-1]
    done = next(
        (
            halvings[:i]
            for i in range(len(halvings))
            if _product(halvings[:i], 2) > 0.75 * plane
        ),
        halvings,
    )
    return max(1, round(plane * _product(done, 0) / _product(done, 2)))


def _per_axis(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) * 3 if isinstance(value, int) else tuple(value)


@contextmanager
def _weightless(network: nn.Module) -> Iterator[Callable[[], list[Tensor]]]:
    """Give a function that runs a network of volumes without memory."""
    state = {
        name: value.to('meta')
        for name, value in (
            *network.named_parameters(),
            *network.named_buffers(),
        )
    }
    modes = {m: m.training for m in network.modules()}
    for module in modes:
        module.training = False
    stem = next(v for v in state.values() if v.ndim == 5)
    x = torch.zeros(1, stem.shape[1], *[_PROBE] * 3, device='meta')
    try:
        with torch.no_grad():
            yield lambda: as_maps(functional_call(network, state, x))
    finally:
        for module, mode in modes.items():
            module.training = mode


def _places(network: nn.Module) -> dict[nn.Module, int]:
    """Tell how often the map is halved before each convolution or pool."""
    places, hooks = {}, []

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        places[module] = round(math.log2(_PROBE / inputs[0].shape[-1]))

    for module in network.modules():
        if hasattr(module, 'kernel_size') and hasattr(module, 'stride'):
            hooks.append(module.register_forward_pre_hook(note))
    with _weightless(network) as run:
        run()
    for hook in hooks:
        hook.remove()
    return places


def apply_halvings(network: nn.Module, halvings: Halvings) -> None:
    """Give an isotropic network of volumes the strides of a spacing.

    Args:
        network: One whose maps are halved by convolutions and poolings, with
            ``out_strides``; changed in place, before weights are loaded.
        halvings: See ``plan_halvings``.

    Raises:
        ValueError: Something else halves its maps.
    """
    if halvings == ISOTROPIC:
        return
    for module, place in _places(network).items():
        _stretch(module, place, halvings)
    strides = tuple(stretched(s, halvings) for s in network.out_strides)
    with _weightless(network) as run:
        sizes = [m.shape[2:] for m in run()]
    # Xception's first map lacks five pixels at the border.
    if any(
        abs(_PROBE / stride - size) > 6
        for s, z in zip(strides, sizes, strict=True)
        for stride, size in zip(s, z, strict=True)
    ):
        raise ValueError(
            f'the spacing needs strides {strides} of '
            f'{type(network).__name__}, which cannot change them (its maps '
            f'would be {[tuple(s) for s in sizes]} of {_PROBE}); use '
            "adapter='slicewise', or leave the spacing out"
        )
    network.out_strides = strides


def _stretch(module: nn.Module, place: int, halvings: Halvings) -> None:
    """Change one convolution or pooling of a map halved ``place`` times."""
    kernel, stride, padding, dilation = (
        _per_axis(getattr(module, name, 1))
        for name in ('kernel_size', 'stride', 'padding', 'dilation')
    )
    is_pool = not hasattr(module, 'weight')
    if is_pool and max(stride) == 1:
        return
    # What a stride halves, and what dilation stands for.
    end = place + round(math.log2(max(stride)))
    skipped = halvings[end : end + round(math.log2(max(dilation)))]
    seen = halvings[: max(end + len(skipped), place + 1)]
    windows = []
    for axis, edge in enumerate(kernel):
        step = _product(halvings[place:end], axis)
        if kernel == stride:  # patches side by side
            edge = step
        elif _product(seen, axis) == 1 or (is_pool and step == 1):
            edge = 1
        apart = _product(skipped, axis)
        pad = apart * (edge - 1) // 2 if padding[axis] else 0
        windows.append((edge, step, pad, apart))
    names = ('kernel_size', 'stride', 'padding', 'dilation')
    for name, values in zip(names, zip(*windows, strict=True), strict=True):
        if hasattr(module, name):
            setattr(module, name, values)
    if not is_pool:
        cut = tuple(
            slice((old - new) // 2, (old + new) // 2)
            for old, new in zip(kernel, module.kernel_size, strict=True)
        )
        weight = module.weight[(..., *cut)].detach().clone()
        module.weight = nn.Parameter(weight)
