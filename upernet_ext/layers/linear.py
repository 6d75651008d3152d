"""Linear layers: by the faster library, and without keeping their input.

On a CPU ``F.linear`` takes float32 to MKL, which runs at half of oneDNN's
speed on AMD. oneDNN's product is the operator that torch's own compiler puts
into its graphs; here it gets a gradient, and serves whoever does not compile.
What comes before a linear layer (a norm, an activation) is often cheap: its
result need not be kept for the backward pass. Both are counted in
``docs/performance.md``.
"""

from collections.abc import Callable
from itertools import compress

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import register_flop_formula

from .hooks import runs_only_itself
from .precision import autocast, autocast_dtype, no_autocast

# Multiply-adds; below, a call costs more than the faster library saves.
_WORTH_A_CALL = 2**21

# Where torch has no MKL, F.linear takes another way.
_HAS_BOTH = (
    torch.backends.mkl.is_available()
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, '_linear_pointwise')
)

_CHEAP = (nn.LayerNorm, nn.Identity)

if _HAS_BOTH:

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _flops(x, weight, *_args, out_shape=None, **_kwargs) -> int:
        """Count the product for torch's FlopCounterMode, by shapes."""
        return 2 * weight[0] * torch.Size(x).numel()


def _is_dense(x: Tensor) -> bool:
    return type(x) in (Tensor, nn.Parameter) and x.dtype == torch.float32


def _takes_onednn(x: Tensor, weight: Tensor) -> bool:
    return (
        _HAS_BOTH
        and torch.backends.mkldnn.enabled
        and not _is_transformed()
        and x.device.type == weight.device.type == 'cpu'
        and _is_dense(x)
        and _is_dense(weight)
        and x.shape[-1] == weight.shape[1]
        and x.numel() * len(weight) >= _WORTH_A_CALL
        and autocast_dtype(x.device) is None
    )


def _is_transformed() -> bool:
    """Tell whether others read the graph: an exporter, or torch.func."""
    if torch.jit.is_tracing() or torch.compiler.is_exporting():
        return True
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    # oneDNN takes any other order of the weight a thousand times as slowly.
    if not (weight.is_contiguous() or weight.T.is_contiguous()):
        weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')


# torch's compiler writes mkldnn's operator itself, for constant weights.
_operator = torch.library.custom_op(
    'upernet_ext::linear', _product, mutates_args=()
)


@_operator.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


class _Linear(Function):
    """oneDNN's product, with a gradient of the same kind."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        compiling = torch.compiler.is_compiling()
        return (_operator if compiling else _product)(x, weight, bias)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        return _gradients(g, x, weight, ctx.needs_input_grad)


def _gradients(
    g: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of input, weight and bias where needed."""
    rows, inputs = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])
    for_x, for_weight, for_bias = needed
    return (
        linear(g, weight.T) if for_x else None,
        linear(rows.T, inputs.T) if for_weight else None,
        rows.sum(0) if for_bias else None,
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, by oneDNN where that is the faster way.

    Args:
        x: ``(..., K)``.
        weight: ``(N, K)``.
        bias: ``(N,)``.

    Returns:
        ``(..., N)``, contiguous.
    """
    if _takes_onednn(x, weight):
        return _Linear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


class Linear(nn.Linear):
    """``nn.Linear``, computed by ``linear``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(..., out_features)`` for ``(..., in_features)``."""
        return linear(x, self.weight, self.bias)


class _LinearOfResult(Function):
    """A linear layer whose input is computed again in the backward pass."""

    @staticmethod
    def forward(
        ctx,
        compute: Callable[..., Tensor],
        weight: Tensor,
        bias: Tensor | None,
        *inputs: Tensor | None,
    ) -> Tensor:
        ctx.compute = compute
        ctx.cast_to = autocast_dtype(weight.device)
        ctx.save_for_backward(weight, *inputs)
        return linear(compute(*inputs), weight, bias)

    @staticmethod
    def backward(ctx, g: Tensor) -> tuple[Tensor | None, ...]:
        weight, *inputs = ctx.saved_tensors
        needed = ctx.needs_input_grad
        twice = torch.is_grad_enabled()
        if not twice:
            inputs = [
                t if t is None else t.detach().requires_grad_(need)
                for t, need in zip(inputs, needed[3:], strict=True)
            ]
        wanted = list(compress(inputs, needed[3:]))
        with torch.enable_grad(), autocast(weight.device, ctx.cast_to):
            x = ctx.compute(*inputs)
        with no_autocast(weight.device):
            for_x, *found = _gradients(
                g,
                x.to(g.dtype),
                weight.to(g.dtype),
                (bool(wanted), *needed[1:3]),
            )
            ways = iter(
                torch.autograd.grad(
                    x, wanted, for_x.to(x.dtype), create_graph=twice
                )
                if wanted
                else ()
            )
        rest = [next(ways) if need else None for need in needed[3:]]
        return None, *found, *rest


def linear_of(
    layer: nn.Module, compute: Callable[..., Tensor], *inputs: Tensor | None
) -> Tensor:
    """Return ``layer(compute(*inputs))`` and keep only the inputs.

    Where the layer is not our own (LoRA's, say), is frozen or hooked, and
    where the graph is compiled or written down, the plain form stays.

    Args:
        layer: A linear layer.
        compute: What is cheap to compute again; it closes over no tensor and
            draws no random numbers.
        inputs: All tensors that it reads.
    """
    is_ours = (
        type(layer) is Linear
        and runs_only_itself(layer)
        and layer.weight.requires_grad
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not _is_transformed()
    )
    if is_ours:
        return _LinearOfResult.apply(
            compute, layer.weight, layer.bias, *inputs
        )
    return layer(compute(*inputs))


def linear_of_norm(
    layer: nn.Module,
    norm: nn.Module,
    x: Tensor,
    *,
    before: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return ``layer(norm(before(x)))`` and keep only ``x``.

    Args:
        layer: A linear layer.
        norm: A layer norm or ``nn.Identity``; what other modules return is
            kept.
        x: ``(..., C)``.
        before: See ``linear_of``; ``None`` for nothing.
    """
    if not runs_only_itself(norm) or type(norm) not in _CHEAP:
        return layer(norm(x if before is None else before(x)))
    if type(norm) is nn.Identity:
        return layer(x) if before is None else linear_of(layer, before, x)

    def compute(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x if before is None else before(x)
        return F.layer_norm(x, shape, weight, bias, eps)

    shape, eps = norm.normalized_shape, norm.eps
    return linear_of(layer, compute, x, norm.weight, norm.bias)
