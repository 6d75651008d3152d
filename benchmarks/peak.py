"""Peak memory of one side of a row, in a process of its own.

Run: python -m benchmarks.peak ROW SIDE [--full]

Prints the largest resident memory during a call less the level before it, in
bytes. The call has run once before, so that libraries are loaded and have
chosen their kernels. Linux only.
"""

import argparse
import ctypes
import gc
import os
import subprocess
import sys
from pathlib import Path

import torch

from .row import Call, Case
from .rows import find_row

# Blocks of this size and more go back to the system when they are freed, so
# that resident memory is what is in use.
_ENVIRONMENT = dict(MALLOC_MMAP_THRESHOLD_='65536', OMP_NUM_THREADS='1')
_STATUS = Path('/proc/self/status')
_RESET = Path('/proc/self/clear_refs')


def measure_peak(row: str, side: str, *, full: bool, bf16: bool) -> int | None:
    """Measure a side in a fresh process.

    Returns:
        Bytes; ``None`` where the system has no ``/proc``.
    """
    if not _RESET.exists():
        return None
    command = [sys.executable, '-m', 'benchmarks.peak', row, side]
    command += ['--full'] * full + ['--bf16'] * bf16
    done = subprocess.run(
        command,
        env={**os.environ, **_ENVIRONMENT},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f'{" ".join(command)} failed:\n{done.stderr}')
    return int(done.stdout.split()[-1])


def resident_peak(call: Call) -> int:
    """Return how far a call's resident memory rises, in bytes."""
    call()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    # 5 sets the peak of resident memory back to its level, see proc(5).
    _RESET.write_text('5')
    before = _status('VmRSS')
    call()
    return _status('VmHWM') - before


def _status(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f'{_STATUS} has no {name}')


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('row')
    parser.add_argument('side')
    parser.add_argument('--full', action='store_true')
    parser.add_argument('--bf16', action='store_true')
    args = parser.parse_args()
    torch.set_num_threads(1)
    row = find_row(args.row)
    case = Case(
        row.sizes(full=args.full, device=torch.device('cpu')), bf16=args.bf16
    )
    print(resident_peak(row.build(args.side, case)))


if __name__ == '__main__':
    main()
