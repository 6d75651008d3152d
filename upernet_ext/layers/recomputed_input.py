"""Linear layers that do not keep their input.

What comes before a linear layer (a norm, an activation) is often cheap: it is
computed again in the backward pass. What that saves is counted in
``docs/performance.md``.
"""

from collections.abc import Callable
from itertools import compress

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F  # noqa: N812

from .hooks import runs_only_itself
from .linear import Linear, gradients, is_transformed, linear
from .precision import autocast, autocast_dtype, no_autocast

_CHEAP = (nn.LayerNorm, nn.Identity)


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
            for_x, *found = gradients(
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
        and not is_transformed()
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
