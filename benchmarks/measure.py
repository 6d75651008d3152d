"""Time, kept bytes and operations of a call."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import (
    FlopCounterMode,
    register_flop_formula,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from .row import Call

# At least so many rounds; more while all of them took less than so long.
REPETITIONS = 7
MOST_REPETITIONS = 40
SECONDS = 4.0


# torch counts the attention kernels of GPUs alone.
_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attention_backward = (
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
)


@register_flop_formula(_attention)
def _attention_flops(q, k, v, *_args, out_shape=None, **_kwargs) -> int:
    return sdpa_flop_count(q, k, v)


@register_flop_formula(_attention_backward)
def _attention_backward_flops(
    g, q, k, v, *_args, out_shape=None, **_kwargs
) -> int:
    return sdpa_backward_flop_count(g, q, k, v)


def cpu_seconds(call: Call) -> float:
    """Run a call; return the CPU time of this process, in s."""
    start = time.process_time()
    call()
    return time.process_time() - start


def cuda_seconds(call: Call) -> float:
    """Run a call; return the time between two events of the GPU, in s."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000


def interleave(
    calls: Mapping[str, Call],
    clock: Callable[[Call], float],
    *,
    repetitions: int = REPETITIONS,
) -> dict[str, list[float]]:
    """Time the calls in turn (A B A B ...), after one round of warming up.

    Args:
        calls: By name of the side.
        clock: Runs a call and returns seconds.
        repetitions: Rounds at least.

    Returns:
        Seconds of every round, a side.
    """
    for call in calls.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in calls}
    total = 0.0
    gc.collect()
    gc.disable()
    try:
        for done in range(max(repetitions, MOST_REPETITIONS)):
            if done >= repetitions and total > SECONDS:
                break
            for name, call in calls.items():
                found[name].append(clock(call))
                total += found[name][-1]
    finally:
        gc.enable()
    return found


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def ratio(ours: float | None, theirs: float | None) -> float | None:
    """Return ours / theirs; ``None`` where there is nothing to divide."""
    if ours is None or not theirs:
        return None
    return ours / theirs


def saved_bytes(call: Call) -> int:
    """Count the bytes that a call keeps for its backward pass.

    Each storage counts once, and whole, however small the view of it that is
    kept; parameters are not counted.
    """
    storages: dict[int, tuple[int, Tensor]] = {}

    def keep(value: Tensor) -> Tensor:
        if not isinstance(value, nn.Parameter):
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = (storage.nbytes(), value)
        return value

    with saved_tensors_hooks(keep, lambda value: value):
        call()
    # Held until here: an address is never given to two storages.
    return sum(size for size, _ in storages.values())


def flops(call: Call) -> int:
    """Count the floating point operations that torch knows of."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def cuda_peak(call: Call) -> int:
    """Return the bytes that a call allocates on the GPU at its peak."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before
