"""Measure us against the peers, and write a table and a plot.

Run: python -m benchmarks.run [--only NAME ...] [--full] [--device cuda]

Each row takes about a minute at most on two cores at its reduced size, and has
a process of its own. See benchmarks/README.md.
"""

import argparse
import gc
import json
import platform
import shlex
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch

from .compare import count_different, relative_error
from .comparison import Comparison, Side
from .measure import (
    REPETITIONS,
    cpu_seconds,
    cuda_peak,
    cuda_seconds,
    flops,
    interleave,
    saved_bytes,
)
from .peak import measure_peak
from .report import document, plot, table
from .row import (
    MMSEG_LOSS_ERROR,
    OURS,
    Call,
    Case,
    MissingPeerError,
    Peer,
    Results,
    Row,
)
from .rows import ROWS, find_row


@dataclass(frozen=True)
class Options:
    """How the rows are run.

    Attributes:
        device: CPU or a GPU.
        full: At their full sizes.
        bf16: Under bfloat16 autocast.
        repetitions: Rounds of timing at least.
        peaks: Measure peak memory, on a CPU in processes of their own.
    """

    device: torch.device
    full: bool = False
    bf16: bool = False
    repetitions: int = REPETITIONS
    peaks: bool = True

    def build(
        self, row: Row, side: str, dtype: torch.dtype = torch.float32
    ) -> Call:
        """Make the call of one side."""
        sizes = row.sizes(full=self.full, device=self.device)
        return row.build(side, Case(sizes, dtype, self.device, self.bf16))


def run_row(row: Row, options: Options) -> list[Comparison]:
    """Measure a row against each of its peers.

    Returns:
        One comparison a peer; of those that are not installed without
        numbers.
    """
    calls, missing = {OURS: options.build(row, OURS)}, {}
    for peer in row.peers:
        try:
            calls[peer.name] = options.build(row, peer.name)
        except MissingPeerError as error:
            missing[peer.name] = str(error)
    sides = _measure(row, calls, options)
    results = {name: call() for name, call in calls.items()}
    # Float64 needs the room.
    calls.clear()
    gc.collect()
    comparisons = []
    for peer in row.peers:
        comparison = Comparison(
            row=row.name,
            title=row.title,
            peer=peer.name,
            sizes=row.sizes(full=options.full, device=options.device),
            ours=sides[OURS],
            theirs=sides.get(peer.name, Side()),
            goals=peer.goals,
            note=missing.get(peer.name, peer.note),
            largest_error=peer.largest_error,
        )
        comparisons.append(comparison)
        if peer.same and peer.name in results:
            _check(comparison, row, peer, results, options)
    return comparisons


def _measure(
    row: Row, calls: Mapping[str, Call], options: Options
) -> dict[str, Side]:
    """Measure all but the results."""
    on_gpu = options.device.type == 'cuda'
    seconds = interleave(
        calls,
        cuda_seconds if on_gpu else cpu_seconds,
        repetitions=options.repetitions,
    )
    sizes = row.sizes(full=options.full, device=options.device)
    images = sizes.get('images') or sizes.get('batch') or 1
    sides = {name: Side(seconds=found) for name, found in seconds.items()}
    for name, side in sides.items():
        side.images_per_second = images / side.time
        if row.torch_only:
            side.saved = saved_bytes(calls[name])
            side.flops = flops(calls[name])
    if options.peaks and row.torch_only:
        for name, peak in _peaks(row, calls, options).items():
            sides[name].memory = peak
    return sides


def _peaks(
    row: Row, calls: Mapping[str, Call], options: Options
) -> dict[str, int | None]:
    if options.device.type == 'cuda':
        return {name: cuda_peak(call) for name, call in calls.items()}

    def measure(side: str) -> int | None:
        return measure_peak(
            row.name, side, full=options.full, bf16=options.bf16
        )

    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(calls, pool.map(measure, calls), strict=True))


def _check(
    comparison: Comparison,
    row: Row,
    peer: Peer,
    results: Mapping[str, Results],
    options: Options,
) -> None:
    """Fill in how far our results are from the peer's."""
    ours, theirs = results[OURS], _renamed(results[peer.name], peer)
    if not row.floating:
        comparison.different = count_different(ours, theirs)
    elif not options.bf16:
        double = torch.float64
        wanted = _renamed(options.build(row, peer.name, double)(), peer)
        exact = options.build(row, OURS, double)()
        comparison.float64_error = relative_error(exact, wanted)
        ours, theirs, wanted = (
            x if row.smooth else _outputs(x) for x in (ours, theirs, wanted)
        )
        plain = relative_error(theirs, wanted)
        if plain and peer.largest_error <= MMSEG_LOSS_ERROR:
            comparison.noise = relative_error(ours, wanted) / plain


def _outputs(results: Results) -> Results:
    return {k: v for k, v in results.items() if k != 'gradients'}


def _renamed(results: Results, peer: Peer) -> Results:
    if 'gradients' not in results:
        return results
    return dict(results, gradients=peer.rename(results['gradients']))


def hardware(device: torch.device) -> str:
    """Name what the bench runs on."""
    versions = f'torch {torch.__version__}'
    if device.type == 'cuda':
        return f'{torch.cuda.get_device_name(device)}, {versions}'
    return f'one thread of a {platform.machine()} CPU, {versions}'


def _run_apart(row: Row, args: argparse.Namespace) -> list[Comparison]:
    """Run a row in a process of its own.

    What other rows left of the heap would decide whether a side's tensors are
    fresh pages: up to half of a peer's time.
    """
    with tempfile.TemporaryDirectory() as folder:
        numbers = Path(folder, 'numbers.json')
        command = [sys.executable, '-m', 'benchmarks.run', '--only', row.name]
        command += ['--device', args.device, '--json', str(numbers)]
        command += ['--repetitions', str(args.repetitions)]
        for flag in ('full', 'bf16', 'deterministic', 'no_peaks'):
            command += [f'--{flag.replace("_", "-")}'] * getattr(args, flag)
        subprocess.run(
            command,
            cwd=Path(__file__).parents[1],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        found = json.loads(numbers.read_text())
    return [Comparison.from_dict(values) for values in found]


def _run_here(row: Row, options: Options) -> list[Comparison]:
    start = time.monotonic()
    comparisons = run_row(row, options)
    seconds = time.monotonic() - start
    print(f'{row.name}: {seconds:.0f} s', file=sys.stderr, flush=True)
    return comparisons


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = '\n'.join(f'{row.name:22}{row.title}' for row in ROWS)
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu')
    parser.add_argument('--only', nargs='+', metavar='NAME', help=names)
    parser.add_argument('--json', type=Path, help='write all numbers here')
    parser.add_argument('--full', action='store_true', help='the full sizes')
    parser.add_argument('--bf16', action='store_true', help='autocast')
    parser.add_argument(
        '--deterministic',
        action='store_true',
        help='forbid algorithms whose results change from run to run',
    )
    parser.add_argument('--no-peaks', action='store_true', help='skip them')
    parser.add_argument('--repetitions', type=int, default=REPETITIONS)
    parser.add_argument('--out', type=Path, help='folder of table and plot')
    parser.add_argument('--name', default='bench', help='of their files')
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rows, print the table, write what is asked for."""
    args = _arguments(arguments)
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    torch.use_deterministic_algorithms(args.deterministic)
    device = torch.device(args.device)
    options = Options(
        device, args.full, args.bf16, args.repetitions, not args.no_peaks
    )
    rows = [find_row(name) for name in args.only] if args.only else ROWS
    comparisons: list[Comparison] = []
    for row in rows:
        comparisons += (
            _run_here(row, options)
            if len(rows) == 1
            else _run_apart(row, args)
        )
        if args.json:
            found = [c.to_dict() for c in comparisons]
            args.json.write_text(json.dumps(found, indent=1))
    print(table(comparisons))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        given = sys.argv[1:] if arguments is None else arguments
        command = shlex.join(['python', '-m', 'benchmarks.run', *given])
        text = document(
            comparisons, command=command, hardware=hardware(device)
        )
        (args.out / f'{args.name}.md').write_text(text)
        plot(comparisons, args.out / f'{args.name}.png')


if __name__ == '__main__':
    main()
