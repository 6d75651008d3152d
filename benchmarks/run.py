"""Measure us against the peers, and write a table and a plot.

Run: python -m benchmarks.run [--only NAME ...] [--full] [--device cuda]

Each row takes less than a minute on two cores at its reduced size. See
benchmarks/README.md.
"""

import argparse
import gc
import json
import platform
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

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
from .row import OURS, Call, Case, MissingPeerError, Peer, Results, Row
from .rows import ROWS, find_row


def run_row(
    row: Row,
    *,
    device: torch.device,
    full: bool = False,
    bf16: bool = False,
    repetitions: int = REPETITIONS,
    peaks: bool = True,
) -> list[Comparison]:
    """Measure a row against each of its peers.

    Args:
        row: The row.
        device: CPU or a GPU.
        full: Run it at its full size.
        bf16: Run it under bfloat16 autocast.
        repetitions: Rounds of timing at least.
        peaks: Measure peak memory, on a CPU in processes of their own.
    """
    sizes = row.sizes(full=full, device=device)

    def build(side: str, dtype: torch.dtype = torch.float32) -> Call:
        return row.build(side, Case(sizes, dtype, device, bf16))

    calls, missing = {OURS: build(OURS)}, {}
    for peer in row.peers:
        try:
            calls[peer.name] = build(peer.name)
        except MissingPeerError as error:
            missing[peer.name] = str(error)
    clock = cuda_seconds if device.type == 'cuda' else cpu_seconds
    seconds = interleave(calls, clock, repetitions=repetitions)
    images = sizes.get('images') or sizes.get('batch') or 1
    sides = {name: Side(seconds=found) for name, found in seconds.items()}
    for name, side in sides.items():
        side.images_per_second = images / side.time
        if row.torch_only:
            side.saved, side.flops = (
                saved_bytes(calls[name]),
                flops(calls[name]),
            )
        if peaks and row.torch_only:
            side.memory = (
                cuda_peak(calls[name])
                if device.type == 'cuda'
                else measure_peak(row.name, name, full=full, bf16=bf16)
            )
    comparisons = [
        Comparison(
            row=row.name,
            title=row.title,
            peer=peer.name,
            sizes=sizes,
            ours=sides[OURS],
            theirs=sides.get(peer.name, Side()),
            goals=peer.goals,
            note=missing.get(peer.name, peer.note),
        )
        for peer in row.peers
    ]
    results = {name: call() for name, call in calls.items()}
    calls.clear()
    gc.collect()
    compared = [p for p in row.peers if p.same and p.name not in missing]
    if row.floating and not bf16 and compared:
        _check_floats(compared, comparisons, results, build)
    elif not row.floating:
        for comparison in comparisons:
            if comparison.peer in results:
                comparison.different = count_different(
                    results[OURS], results[comparison.peer]
                )
    return comparisons


def _check_floats(
    peers: Sequence[Peer],
    comparisons: Sequence[Comparison],
    results: Mapping[str, Results],
    build,
) -> None:
    """Fill in the errors, against each peer's float64 result."""
    exact = build(OURS, torch.float64)()
    for peer in peers:
        wanted = _renamed(build(peer.name, torch.float64)(), peer)
        (comparison,) = [c for c in comparisons if c.peer == peer.name]
        comparison.float64_error = relative_error(exact, wanted)
        plain = relative_error(_renamed(results[peer.name], peer), wanted)
        ours = relative_error(results[OURS], wanted)
        comparison.noise = ours / plain if plain else None


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
    torch.use_deterministic_algorithms(args.deterministic)
    device = torch.device(args.device)
    rows = [find_row(name) for name in args.only] if args.only else ROWS
    comparisons: list[Comparison] = []
    for row in rows:
        print(f'{row.name}: {row.title}', file=sys.stderr, flush=True)
        comparisons += run_row(
            row,
            device=device,
            full=args.full,
            bf16=args.bf16,
            repetitions=args.repetitions,
            peaks=not args.no_peaks,
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
