"""Progress lines with the memory in use, on the CPU too."""

import sys

import torch
from mmengine import runner as mmengine_runner

from ..registry import LOG_PROCESSORS


def peak_memory(device: str | torch.device) -> int:
    """Peak memory of this process since it started, in MiB.

    On a GPU what tensors occupied there; on the CPU what was resident.
    """
    device = torch.device(device)
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) >> 20
    if sys.platform == 'win32':
        import psutil

        return psutil.Process().memory_info().peak_wset >> 20
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kilobytes, but bytes on macOS.
    return peak >> (20 if sys.platform == 'darwin' else 10)


@LOG_PROCESSORS.register_module()
class LogProcessor(mmengine_runner.LogProcessor):
    """mmengine's, which tells the memory on CUDA only.

    ``memory`` is the peak in MiB since the process started: of tensors on
    the GPU, or resident where the run is on the CPU.
    """

    def get_log_after_iter(
        self, runner: mmengine_runner.Runner, batch_idx: int, mode: str
    ) -> tuple[dict, str]:
        """Return the scalars of an iteration and its line."""
        scalars, line = super().get_log_after_iter(runner, batch_idx, mode)
        if 'memory' not in scalars:
            scalars['memory'] = self._get_max_memory(runner)
            line += f'  memory: {scalars["memory"]}'
        return scalars, line

    def _get_max_memory(self, runner: mmengine_runner.Runner) -> int:
        return peak_memory(next(runner.model.parameters()).device)
