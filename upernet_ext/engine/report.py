"""What a test measured, for ``metrics.json``."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size

from .log_processor import peak_memory
from .runner import Runner


def write_report(
    path: Path, runner: Runner, metrics: Mapping[str, float], **facts: Any
) -> None:
    """Write the numbers of a test as JSON; NaN becomes null.

    ``images_per_second`` is over all processes, from the batch in memory to
    the labels counted: without reading files, drawing pictures, and the
    first batch, which pays for starting up.
    ``peak_memory_mib`` is of the first process: of tensors on a GPU, or
    resident where the test ran on the CPU.

    Args:
        path: The file; its folder is made.
        runner: After ``test()``.
        metrics: What ``test()`` returned: the means.
        **facts: To be written with the numbers.
    """
    loader = runner.test_dataloader
    history = runner.message_hub.get_scalar
    seconds = history('test/time').data[0] - history('test/data_time').data[0]
    seconds = seconds[1:] if len(seconds) > 1 else seconds
    per_class: dict[str, dict[str, float]] = {}
    for metric in runner.test_evaluator.metrics:
        for name, numbers in getattr(metric, 'per_class', {}).items():
            per_class.setdefault(name, {}).update(numbers)
    rate = loader.batch_size * get_world_size() / seconds.mean()
    content = dict(
        **facts,
        device=runner.device,
        processes=get_world_size(),
        images=len(loader.dataset),
        images_per_second=float(rate),
        peak_memory_mib=peak_memory(runner.device),
        metrics=dict(metrics),
        per_class=per_class,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_without_nan(content), indent=2) + '\n')
    runner.logger.info(f'The numbers are in {path}')


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
