"""The plain form is the reference: resize, join, convolve."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn import ConvModule
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from upernet_ext.layers import UpsampledConvModule, upsampled_conv
from upernet_ext.layers.low_resolution_conv import multiply_adds, tap_matrix
from upernet_ext.layers.rank import conv_module, resize

both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])


class Always(UpsampledConvModule):
    """Convolve every resized map at its own resolution, cheaper or not."""

    def _at_low_resolution(self, maps, size):
        assert self._is_plain(size)
        return [tuple(x.shape[2:]) != size for x in maps]


def build(
    spatial_dims: int,
    channels: int,
    out_channels: int = 5,
    kernel: int = 3,
    kind: type[ConvModule] = UpsampledConvModule,
    act: dict | None = None,
    **kwargs,
) -> ConvModule:
    return conv_module(
        channels,
        out_channels,
        kernel,
        spatial_dims=spatial_dims,
        kind=kind,
        act=act,
        **kwargs,
    )


def plain(module: UpsampledConvModule, maps: list[Tensor], size) -> Tensor:
    x = torch.cat([resize(x, size, module.align_corners) for x in maps], 1)
    return ConvModule.forward(module, x)


def is_fused(out: Tensor) -> bool:
    return any(
        '_Convolution' in node.name() for node, _ in _graph(out.grad_fn)
    )


def _graph(node, depth: int = 3):
    if node is not None and depth:
        yield node, depth
        for child, _ in node.next_functions:
            yield from _graph(child, depth - 1)


def assert_same(found: Tensor, wanted: Tensor, leaves: list[Tensor]) -> None:
    """Compare values and gradients, relative to the largest entry."""
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[found.dtype]
    g = torch.randn_like(wanted)
    pairs = zip(
        (found, *torch.autograd.grad(found, leaves, g)),
        (wanted, *torch.autograd.grad(wanted, leaves, g)),
        strict=True,
    )
    for ours, theirs in pairs:
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=tolerance * scale
        )


def random_maps(
    images: int, channels, sizes, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    return [
        torch.randn(images, c, *size, dtype=dtype, requires_grad=True)
        for c, size in zip(channels, sizes, strict=True)
    ]


# --- values and gradients ---------------------------------------------------

EDGES = st.lists(st.integers(1, 12), min_size=3, max_size=3)


@settings(deadline=None, max_examples=80)
@given(
    spatial_dims=st.sampled_from([2, 3]),
    sizes=st.lists(EDGES, min_size=1, max_size=3),
    size=st.lists(st.integers(5, 11), min_size=3, max_size=3),
    full=st.sampled_from([None, 0, 1]),
    kernel=st.sampled_from([1, 3, 5]),
    dilation=st.sampled_from([1, 2]),
    align_corners=st.booleans(),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
    block=st.sampled_from([1, 2000, 2**22]),
)
def test_result_and_gradients_are_those_of_the_plain_form(
    spatial_dims: int,
    sizes: list,
    size: list,
    full: int | None,
    kernel: int,
    dilation: int,
    align_corners: bool,
    bias: bool,
    dtype: torch.dtype,
    block: int,
) -> None:
    """Of odd ratios, smaller and larger maps, in any order."""
    torch.manual_seed(0)
    size = tuple(size[:spatial_dims])
    sizes = [tuple(s[:spatial_dims]) for s in sizes]
    if full is not None:
        sizes.insert(full, size)
    channels = [2 + i for i in range(len(sizes))]
    module = build(
        spatial_dims,
        sum(channels),
        kernel=kernel,
        kind=Always,
        dilation=dilation,
        align_corners=align_corners,
        bias=bias,
    ).to(dtype)
    maps = random_maps(2, channels, sizes, dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upsampled_conv, 'CPU_BLOCK', block)
        found = module(maps, size)
        leaves = [*maps, *module.parameters()]
        assert_same(found, plain(module, maps, size), leaves)
    assert is_fused(found) == any(s != size for s in sizes)


@both_ranks
@pytest.mark.parametrize('norm', [None, dict(type='BN')])
def test_norm_and_activation_follow(
    spatial_dims: int, norm: dict | None
) -> None:
    args = (spatial_dims, 9)
    kwargs = dict(norm=norm, act=dict(type='ReLU'))
    module = build(*args, **kwargs)
    usual = build(*args, kind=ConvModule, **kwargs)
    assert module.state_dict().keys() == usual.state_dict().keys()
    usual.load_state_dict(module.state_dict())
    sizes = [[edge] * spatial_dims for edge in (12, 3, 2)]
    maps = random_maps(2, (3, 3, 3), sizes)
    found = module(maps)
    assert is_fused(found)
    joined = torch.cat([resize(x, sizes[0]) for x in maps], 1)
    leaves = [*maps, module.conv.weight]
    g = torch.randn_like(found)
    ours = torch.autograd.grad(found, leaves, g)
    wanted = usual(joined)
    theirs = torch.autograd.grad(wanted, [*maps, usual.conv.weight], g)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.state_dict(), usual.state_dict())
    maps = [x.detach() for x in maps]
    bare = module(maps, activate=False, norm=False)
    torch.testing.assert_close(bare, module.conv(joined), rtol=1e-5, atol=1e-5)


@both_ranks
def test_only_what_is_asked_for_gets_a_gradient(spatial_dims: int) -> None:
    module = build(spatial_dims, 7, kind=Always)
    sizes = [[edge] * spatial_dims for edge in (8, 4, 3)]
    for frozen in range(4):
        maps = random_maps(1, (2, 2, 3), sizes)
        leaves = [*maps, module.conv.weight]
        leaves.pop(frozen).requires_grad_(False)
        assert_same(module(maps), plain(module, maps, sizes[0]), leaves)
        module.requires_grad_(True)


@both_ranks
def test_gradients_have_gradients(spatial_dims: int) -> None:
    module = build(spatial_dims, 3, 1, kind=Always).double()
    sizes = [[4] * spatial_dims, [2] * spatial_dims]
    maps = random_maps(1, (1, 2), sizes, torch.float64)

    def run(weight: Tensor, *maps: Tensor) -> Tensor:
        return torch.func.functional_call(
            module, {'conv.weight': weight}, (list(maps),)
        )

    inputs = (module.conv.weight.detach().requires_grad_(), *maps)
    assert torch.autograd.gradgradcheck(run, inputs)


@both_ranks
@pytest.mark.parametrize('autocast', [True, False])
def test_bfloat16_is_as_precise_as_the_plain_form(
    spatial_dims: int, autocast: bool
) -> None:
    dtype = torch.bfloat16
    edge = {2: 32, 3: 16}[spatial_dims]
    sizes = [(edge // r,) * spatial_dims for r in (1, 2, 4, 8)]
    module = build(spatial_dims, 128, 32, kind=Always)
    maps = [x.detach().relu() for x in random_maps(1, (32,) * 4, sizes)]
    maps = [x.to(dtype).float().requires_grad_() for x in maps]
    g = torch.randn(1, 32, *sizes[0]).to(dtype)

    def run(form, kind: torch.dtype) -> list[Tensor]:
        leaves = [x.detach().to(kind).requires_grad_() for x in maps]
        module.to(kind)
        with torch.autocast('cpu', dtype, enabled=autocast):
            out = form(leaves)
        weight = module.conv.weight
        found = [out, *torch.autograd.grad(out, [*leaves, weight], g.to(out))]
        return [x.double() for x in found]

    def reference(maps: list[Tensor]) -> Tensor:
        return plain(module, maps, sizes[0])

    module.to(dtype)
    low = torch.float32 if autocast else dtype
    ours, theirs = run(module, low), run(reference, low)
    autocast = False
    exact = run(reference, torch.float64)
    for mine, other, wanted in zip(ours, theirs, exact, strict=True):
        error, allowed = (mine - wanted).norm(), (other - wanted).norm()
        assert error <= 1.2 * allowed


def test_the_matrices_serve_training_after_inference() -> None:
    module = build(2, 4, kind=Always)
    x = torch.randn(1, 4, 5, 7)
    with torch.inference_mode():
        module(x, (15, 21))
    module(x, (15, 21)).sum().backward()
    assert module.conv.weight.grad.abs().sum() > 0


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


def test_the_matrix_of_an_unresized_axis_shifts() -> None:
    """Tap 0 of three sees the pixel before, tap 2 the one behind."""
    matrix = tap_matrix(4, 4, 3, 1, False, torch.float64, torch.device('cpu'))
    x = torch.tensor([1.0, 2, 3, 4], dtype=torch.float64)
    before, here, behind = (m @ x for m in matrix.split(4, 1))
    assert before.tolist() == [0, 1, 2, 3]
    assert here.tolist() == [1, 2, 3, 4]
    assert behind.tolist() == [2, 3, 4, 0]


# --- compilers --------------------------------------------------------------


@both_ranks
@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
@pytest.mark.filterwarnings('ignore:.*should not be instantiated')
def test_compiled_in_one_graph(spatial_dims: int, backend: str) -> None:
    torch._dynamo.reset()
    module = build(spatial_dims, 34)
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    sizes = [[edge] * spatial_dims for edge in (8, 4, 2)]
    maps = random_maps(1, (2, 16, 16), sizes)
    leaves = [*maps, *module.parameters()]
    wanted = module(maps)
    assert is_fused(wanted)
    assert_same(compiled(maps), wanted, leaves)


@both_ranks
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_exported_and_traced_as_the_plain_form(spatial_dims: int) -> None:
    module = build(spatial_dims, 6).eval()
    maps = [torch.randn(1, 2, *[e] * spatial_dims) for e in (8, 4, 2)]
    wanted = module(maps)
    exported = torch.export.export(module, (maps,)).module()
    torch.testing.assert_close(exported(maps), wanted, rtol=1e-5, atol=1e-5)
    traced = torch.jit.trace(module, (maps,))
    torch.testing.assert_close(traced(maps), wanted, rtol=1e-5, atol=1e-5)
    # Fake tensors of the exporter are in no cache.
    torch.testing.assert_close(module(maps), wanted)
