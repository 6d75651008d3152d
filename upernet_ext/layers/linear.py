"""Linear layers by the faster library.

On a CPU ``F.linear`` takes float32 to MKL, which runs at half of oneDNN's
speed on AMD. oneDNN's product is the operator that torch's own compiler puts
into its graphs; here it gets a gradient, and serves whoever does not compile.
What it saves is counted in ``docs/performance.md``.
"""

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F  # noqa: N812
from torch.utils.flop_counter import register_flop_formula

from .precision import autocast_dtype

# Multiply-adds; below, a call costs more than the faster library saves.
_WORTH_A_CALL = 2**21

# Where torch has no MKL, F.linear takes another way.
_HAS_BOTH = (
    torch.backends.mkl.is_available()
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, '_linear_pointwise')
)

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
        and not is_transformed()
        and x.device.type == weight.device.type == 'cpu'
        and _is_dense(x)
        and _is_dense(weight)
        and x.shape[-1] == weight.shape[1]
        and x.numel() * len(weight) >= _WORTH_A_CALL
        and autocast_dtype(x.device) is None
    )


def is_transformed() -> bool:
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
        return gradients(g, x, weight, ctx.needs_input_grad)


def gradients(
    g: Tensor, x: Tensor, weight: Tensor, needed: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Return the gradients of ``linear(x, weight, bias)`` where needed.

    Args:
        g: Gradient of the result.
        x: ``(..., K)``.
        weight: ``(N, K)``.
        needed: Whether those of input, weight and bias are.
    """
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
