"""Linear layers against torch's own, which are the plain form."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from upernet_ext.layers.linear import (
    _HAS_BOTH,
    _WORTH_A_CALL,
    Linear,
    linear,
)
from upernet_ext.layers.recomputed_input import linear_of, linear_of_norm
from upernet_ext.layers.transformer import Positions, TransformerBlock

# Large enough for oneDNN.
TOKENS, CHANNELS, HIDDEN = 96, 128, 192
assert TOKENS * CHANNELS * HIDDEN >= _WORTH_A_CALL

# Inputs of all the orders that maps, slices and gradients have.
ORDERS = {
    'dense': lambda n, length, c: torch.randn(n, length, c),
    'channels first': lambda n, length, c: torch.randn(n, c, length).mT,
    'without prefix': lambda n, length, c: torch.randn(n, length + 1, c)[
        :, 1:
    ],
    'every other': lambda n, length, c: torch.randn(n, length, 2 * c)[
        ..., ::2
    ],
    'expanded': lambda n, length, c: torch.randn(n, 1, c).expand(
        -1, length, -1
    ),
    'one number': lambda n, length, c: torch.ones(()).expand(n, length, c),
}


class Operators(TorchDispatchMode):
    """Names what torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **kwargs or {})


def _close(found, wanted, dtype=torch.float32) -> None:
    double = dtype == torch.float64
    tolerance = 1e-12 if double else 1e-5
    found, wanted = list(found), list(wanted)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        largest = float(b.detach().abs().max())
        torch.testing.assert_close(
            a, b, rtol=tolerance, atol=tolerance * largest
        )


def _results(call, leaves) -> list[Tensor]:
    """Return the output and its gradients, of a gradient of waves."""
    y = call()
    wave = torch.linspace(0, 50, y.numel()).sin().view(y.shape).to(y)
    return [y, *torch.autograd.grad(y, leaves, wave)]


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(90, 131),
    channels=st.integers(150, 193),
    out=st.integers(157, 200),
    order=st.sampled_from(sorted(ORDERS)),
    weight_order=st.sampled_from(['dense', 'transposed', 'every other']),
    bias=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    gradient_of_sum=st.booleans(),
)
def test_equals_torchs_linear(
    batch, length, channels, out, order, weight_order, bias, dtype,
    gradient_of_sum,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    x = ORDERS[order](batch, length, channels).to(dtype).requires_grad_()
    weight = {
        'dense': lambda: torch.randn(out, channels),
        'transposed': lambda: torch.randn(channels, out).T,
        'every other': lambda: torch.randn(out, 2 * channels)[:, ::2],
    }[weight_order]()
    weight = weight.to(dtype).requires_grad_()
    leaves = [x, weight]
    if bias:
        leaves.append(torch.randn(2 * out, dtype=dtype)[::2].requires_grad_())

    def results(layer) -> list[Tensor]:
        if gradient_of_sum:
            return torch.autograd.grad(layer(*leaves).sum(), leaves)
        return _results(lambda: layer(*leaves), leaves)

    _close(results(linear), results(F.linear), dtype)


@pytest.mark.skipif(not _HAS_BOTH, reason='torch has one library here')
def test_float32_goes_to_onednn_and_the_rest_to_torch() -> None:
    layer = Linear(CHANNELS, HIDDEN)

    def names(layer: nn.Module, x: Tensor) -> set[str]:
        with Operators() as operators:
            y = layer(x.requires_grad_())
            y.backward(torch.randn_like(y))
        return operators.names

    onednn = 'mkldnn._linear_pointwise.default'
    large, small = torch.randn(TOKENS, CHANNELS), torch.randn(2, CHANNELS)
    products = {'aten.addmm.default', 'aten.mm.default'}
    assert onednn in names(layer, large)
    assert not products & names(layer, large)
    assert onednn not in names(layer, small)
    assert onednn not in names(copy.deepcopy(layer).double(), large.double())
    with torch.autocast('cpu', torch.bfloat16):
        assert onednn not in names(layer, large)


def test_operations_are_counted() -> None:
    x = torch.randn(2, TOKENS, CHANNELS)

    def count(layer: nn.Module) -> int:
        with FlopCounterMode(display=False) as counter:
            layer(x.clone().requires_grad_()).sum().backward()
        return counter.get_total_flops()

    assert count(Linear(CHANNELS, HIDDEN)) == count(
        nn.Linear(CHANNELS, HIDDEN)
    )


def test_is_torchs_linear_to_others() -> None:
    torch.manual_seed(0)
    ours, plain = Linear(CHANNELS, HIDDEN), nn.Linear(CHANNELS, HIDDEN)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(TOKENS, CHANNELS)
    assert isinstance(ours, nn.Linear)
    # The graph that other runtimes read.
    program = torch.export.export(nn.Sequential(ours), (x,))
    calls = [n for n in program.graph.nodes if n.op == 'call_function']
    assert [n.target for n in calls] == [torch.ops.aten.linear.default]
    _close([torch.jit.trace(ours, x)(x)], [plain(x)])
    # torch.func has no rule for an operator of oneDNN.
    batches = torch.randn(2, TOKENS, CHANNELS)
    _close([torch.vmap(ours)(batches)], [plain(batches)])
    _close(*(torch.func.jvp(m, (x,), (x,)) for m in (ours, plain)))


@pytest.mark.filterwarnings('ignore:.*should not be instantiated')
@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
def test_compiles_to_one_graph(backend: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    block = TransformerBlock(CHANNELS, 2)
    x = torch.randn(1, 150, CHANNELS, requires_grad=True)
    leaves = [x, *block.parameters()]
    compiled = torch.compile(block, backend=backend, fullgraph=True)
    positions = Positions((10, 15))
    _close(
        _results(lambda: compiled(x, positions), leaves),
        _results(lambda: block(x, positions), leaves),
    )


def _swiglu(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, -1)
    return F.silu(gate) * value


def _chain(before, norm: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """Compute the plain form."""
    return layer(norm(x if before is None else before(x)))


def _parts(before, norm: str, bias: bool = True):
    torch.manual_seed(0)
    channels = CHANNELS // 2 if before is _swiglu else CHANNELS
    norms = dict(
        none=nn.Identity,
        norm=lambda: nn.LayerNorm(channels),
        fixed=lambda: nn.LayerNorm(channels, elementwise_affine=False),
    )
    module = norms[norm]()
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module, Linear(channels, HIDDEN, bias=bias)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('before', [None, F.gelu, _swiglu])
@pytest.mark.parametrize('norm', ['none', 'norm', 'fixed'])
@pytest.mark.parametrize('frozen', [(), ('x',), ('norm',), ('layer',)])
def test_input_computed_again_changes_nothing(
    before, norm: str, frozen: tuple[str, ...], dtype: torch.dtype
) -> None:
    module, layer = _parts(before, norm, bias='x' not in frozen)
    module, layer = module.to(dtype), layer.to(dtype)
    x = torch.randn(2, TOKENS, CHANNELS, dtype=dtype)
    x.requires_grad_('x' not in frozen)
    module.requires_grad_('norm' not in frozen)
    layer.requires_grad_('layer' not in frozen)
    leaves = [x, *module.parameters(), *layer.parameters()]
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    _close(
        _results(
            lambda: linear_of_norm(layer, module, x, before=before), leaves
        ),
        _results(lambda: _chain(before, module, layer, x), leaves),
        dtype,
    )


@pytest.mark.parametrize('before', [None, F.gelu])
def test_can_be_differentiated_twice(before) -> None:
    module, layer = _parts(before, 'norm')
    module, layer = module.double(), layer.double()
    x = torch.randn(3, CHANNELS, dtype=torch.float64, requires_grad=True)
    leaves = [x, *module.parameters(), *layer.parameters()]

    def second(call) -> list[Tensor]:
        first = torch.autograd.grad(
            call().square().sum(), leaves, create_graph=True
        )
        return torch.autograd.grad(
            sum(g.square().sum() for g in first), leaves
        )

    _close(
        second(lambda: linear_of_norm(layer, module, x, before=before)),
        second(lambda: _chain(before, module, layer, x)),
        torch.float64,
    )


def test_one_token_without_a_batch() -> None:
    torch.manual_seed(0)
    weight = torch.randn(_WORTH_A_CALL // 1024, 1024, requires_grad=True)
    leaves = [torch.randn(1024, requires_grad=True), weight]
    for compute in (linear, F.linear):
        assert compute(*leaves).shape == (len(weight),)
    _close(
        _results(lambda: linear(*leaves), leaves),
        _results(lambda: F.linear(*leaves), leaves),
    )


def test_onednn_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    x = torch.randn(TOKENS, CHANNELS, requires_grad=True)
    weight = torch.randn(HIDDEN, CHANNELS, requires_grad=True)

    def second(function) -> list[Tensor]:
        y = function(x, weight).square().mean()
        first = torch.autograd.grad(y, [x, weight], create_graph=True)
        return torch.autograd.grad(
            sum(g.square().sum() for g in first), [x, weight]
        )

    _close(second(linear), second(F.linear))


def _mixed(x: Tensor) -> Tensor:
    """Compute what autocast does in bfloat16."""
    return (x @ torch.eye(x.shape[-1])).square()


@pytest.mark.parametrize('before', [None, F.gelu, _mixed])
def test_autocast_computes_the_same_again(before) -> None:
    module, layer = _parts(before, 'norm')
    x = torch.randn(TOKENS, CHANNELS, requires_grad=True)
    leaves = [x, *module.parameters(), *layer.parameters()]

    def results(call) -> list[Tensor]:
        with torch.autocast('cpu', torch.bfloat16):
            y = call()
        wave = torch.linspace(0, 50, y.numel()).sin().view(y.shape).to(y)
        return [y, *torch.autograd.grad(y, leaves, wave)]

    found = results(lambda: linear_of_norm(layer, module, x, before=before))
    wanted = results(lambda: _chain(before, module, layer, x))
    assert found[0].dtype == torch.bfloat16
    for a, b in zip(found, wanted, strict=True):
        assert a.dtype == b.dtype
        # The same kernels, in the same precision.
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def _kept(call) -> int:
    """Count the numbers that are kept, each storage once."""
    storages: dict[int, Tensor] = {}

    def keep(x: Tensor) -> Tensor:
        if not isinstance(x, nn.Parameter):
            storages[x.untyped_storage().data_ptr()] = x
        return x

    with saved_tensors_hooks(keep, lambda x: x):
        y = call()
    del y
    return sum(x.untyped_storage().nbytes() // 4 for x in storages.values())


def test_foreign_and_hooked_layers_are_called() -> None:
    torch.manual_seed(0)

    class Foreign(Linear):
        """As LoRA's, it does more than its parent."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    norm, x = nn.LayerNorm(8), torch.randn(2, 8, requires_grad=True)
    foreign = Foreign(8, 8)
    _close([linear_of_norm(foreign, norm, x)], [foreign(norm(x))])
    for hooked in (0, 1):
        modules, seen = (nn.LayerNorm(8), Linear(8, 8)), []
        modules[hooked].register_forward_hook(lambda *_, s=seen: s.append(1))
        linear_of_norm(modules[1], modules[0], x)
        assert seen
    scaled = nn.utils.parametrizations.weight_norm(Linear(8, 8))
    _close([linear_of_norm(scaled, norm, x)], [scaled(norm(x))])


@pytest.mark.parametrize(
    ('mlp', 'init_values', 'numbers'),
    # Input, q k v, what was attended, its sum with the input, hidden.
    [('gelu', 0, 1 + 3 + 1 + 1 + 4), ('swiglu', 0, 1 + 3 + 1 + 1 + 8),
     ('swiglu-norm', 0, 1 + 3 + 1 + 1 + 8),
     # And what the two layer scales scale.
     ('gelu', 1, 1 + 3 + 1 + 1 + 4 + 2)],
)  # fmt: skip
def test_a_block_keeps_so_many_numbers_a_channel(
    mlp: str, init_values: float, numbers: int
) -> None:
    channels, length = 256, 50
    block = TransformerBlock(channels, 2, mlp=mlp, init_values=init_values)
    x = torch.randn(1, length, channels, requires_grad=True)
    kept = _kept(lambda: block(x, Positions((length,)))) / (channels * length)
    # Statistics of norms and attention: a few numbers a token.
    assert numbers <= kept < numbers + 0.1


def test_checkpointing_keeps_only_the_input() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(64, 2)
    x = torch.randn(1, 50, 64, requires_grad=True)
    leaves, positions = [x, *block.parameters()], Positions((50,))

    def again() -> Tensor:
        return checkpoint(block, x, positions, use_reentrant=False)

    _close(
        _results(again, leaves),
        _results(lambda: block(x, positions), leaves),
    )


def test_nothing_is_kept_without_a_gradient() -> None:
    layer, x = Linear(8, 8), torch.randn(3, 8, requires_grad=True)
    with torch.no_grad():
        y = linear_of(layer, F.gelu, x)
    assert not y.requires_grad
    _close([y], [layer(F.gelu(x))])
