"""The plain form is the reference: resize, join, convolve."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.cnn import ConvModule
from torch import Tensor

from upernet_ext.layers import upsampled_conv
from upernet_ext.layers.rank import resize

from .upsampling import (
    Always,
    assert_same,
    both_ranks,
    build,
    is_fused,
    plain,
    random_maps,
)

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
