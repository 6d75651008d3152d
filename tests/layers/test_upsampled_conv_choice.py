"""Which form is taken: the cost rule, and what the plain form is for."""

import math

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from upernet_ext.layers.low_resolution_conv import multiply_adds

from .upsampling import (
    Always,
    both_ranks,
    build,
    is_fused,
    plain,
    random_maps,
)

# --- the cost rule ----------------------------------------------------------


@both_ranks
@pytest.mark.parametrize('kernel', [1, 3])
def test_the_cheaper_form_is_chosen(spatial_dims: int, kernel: int) -> None:
    module = build(spatial_dims, 64, 8, kernel)
    high = (8,) * spatial_dims
    for edge in (1, 2, 4, 6, 7, 8, 9):
        x = torch.randn(1, 64, *[edge] * spatial_dims, requires_grad=True)
        counts = []
        for form in (module, Always.forward):
            with FlopCounterMode(display=False) as counter:
                out = form(x, high) if form is module else None
                out = plain(module, [x], high) if out is None else out
            counts.append(counter.get_total_flops())
        each, axes = multiply_adds(
            (edge,) * spatial_dims, high, (kernel,) * spatial_dims
        )
        low = 2 * 8 * (64 * each + axes)
        assert counts[0] == (counts[1] if edge == 8 else min(low, counts[1]))


@both_ranks
def test_no_more_is_held_than_in_the_plain_form(spatial_dims: int) -> None:
    """Saved are the inputs, and no map but the result is of full size."""
    high = (16,) * spatial_dims
    sizes = [(edge,) * spatial_dims for edge in (16, 8, 4)]
    maps = random_maps(2, (16,) * 3, sizes)
    module = build(spatial_dims, 48, 16)

    class Largest(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.numbers = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                if isinstance(x, Tensor) and not x._is_view():
                    self.numbers = max(self.numbers, x.numel())
            return out

    saved = set()

    def note(x: Tensor) -> Tensor:
        saved.add(x.untyped_storage().data_ptr())
        return x

    with (
        Largest() as largest,
        torch.autograd.graph.saved_tensors_hooks(note, lambda x: x),
    ):
        out = module(maps)
        out.sum().backward()
    inputs = [*maps, module.conv.weight]
    assert saved <= {x.untyped_storage().data_ptr() for x in inputs}
    assert is_fused(out)
    resized = 2 * 2 * 16 * math.prod(high)
    assert largest.numbers <= resized


# --- where the plain form is taken ------------------------------------------


@both_ranks
def test_small_maps_are_not_worth_a_copy_of_the_weight(
    spatial_dims: int,
) -> None:
    """As those that a pyramid pooling makes of a deep map."""
    module = build(spatial_dims, 512, 64)
    sizes = [(4,) * spatial_dims, (1,) * spatial_dims]
    maps = random_maps(1, (496, 16), sizes)
    assert not is_fused(module(maps))
    sizes = [(8,) * spatial_dims, (1,) * spatial_dims]
    maps = random_maps(1, (16, 496), sizes)
    assert is_fused(module(maps))


def test_hooks_on_the_convolution_run() -> None:
    module = build(2, 8)
    x = torch.randn(1, 8, 2, 2, requires_grad=True)
    fused = module(x, (8, 8))
    assert is_fused(fused)
    calls = []
    for register in (
        'register_forward_hook',
        'register_forward_pre_hook',
        'register_full_backward_hook',
        'register_full_backward_pre_hook',
    ):
        handle = getattr(module.conv, register)(lambda *_: calls.append(1))
        out = module(x, (8, 8))
        out.sum().backward()
        torch.testing.assert_close(out, fused, rtol=1e-5, atol=1e-5)
        handle.remove()
    assert len(calls) == 4
    module.conv.forward = lambda x: calls.append(1) or x
    module(x, (8, 8))
    assert len(calls) == 5


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(stride=2),
        dict(groups=2),
        dict(padding_mode='reflect'),
        dict(with_spectral_norm=True),
        dict(order=('act', 'conv', 'norm'), act=dict(type='ReLU')),
        dict(
            norm=dict(type='BN'), efficient_conv_bn_eval=True, training=False
        ),
        dict(largest_dilation=4, dilation=2),
    ],
)
def test_another_convolution_takes_the_plain_form(kwargs: dict) -> None:
    training = kwargs.pop('training', True)
    module = build(2, 8, 6, **kwargs).train(training)
    x = torch.randn(2, 8, 3, 3, requires_grad=True)
    found = module(x, (12, 12))
    assert not is_fused(found)
    if not kwargs.get('with_spectral_norm'):
        torch.testing.assert_close(found, plain(module, [x], (12, 12)))
