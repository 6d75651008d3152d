"""Print what a run's record holds, for benchmarks/accuracy.md.

Run: python -m benchmarks.summarise_run WORK_DIR [--every 100]

Reads the newest ``scalars.json`` (or the log's own JSON) below WORK_DIR and
prints, as JSON lines, the validation results and every N-th training entry.
"""

import argparse
import json
from pathlib import Path

SCORES = ('mIoU', 'mAcc', 'aAcc', 'Dice', 'HD95', 'NSD')
KEPT = ('step', 'loss', 'lr', *SCORES, 'memory')


def main() -> None:
    """Print the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument('--every', type=int, default=100)
    args = parser.parse_args()
    newest = max(
        args.work_dir.rglob('scalars.json'), key=lambda p: p.stat().st_mtime
    )
    for line in newest.read_text().splitlines():
        entry = json.loads(line)
        scored = not entry.keys().isdisjoint(SCORES)
        if scored or entry.get('step', 1) % args.every == 0:
            kept = {k: entry[k] for k in KEPT if k in entry}
            print(
                json.dumps(
                    {
                        k: float(f'{v:.4g}') if isinstance(v, float) else v
                        for k, v in kept.items()
                    }
                )
            )


if __name__ == '__main__':
    main()
