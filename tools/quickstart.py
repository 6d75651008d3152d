"""Train, test and predict on the MNI152 template, which nilearn ships.

Run: python tools/quickstart.py
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import cv2

from upernet_ext.datasets import MNI152Dataset

TOOLS = Path(__file__).parent
CONFIG = 'upernet_resnet18_mni152.py'


def run(tool: str, *arguments: str | Path) -> None:
    """Run a tool of this folder as a user would, and stop if it fails."""
    command = [sys.executable, TOOLS / f'{tool}.py', *arguments]
    # One thread beside one loading process: on two shared cores, threads that
    # wait for each other lose more than they bring.
    environment = {'OMP_NUM_THREADS': '1', **os.environ}
    done = subprocess.run([str(part) for part in command], env=environment)
    if done.returncode:
        sys.exit(f'quickstart: tools/{tool}.py failed, see above')


def write_slices(folder: Path) -> None:
    """Write the test slices as grey PNG files, to predict from files."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = MNI152Dataset('test', test_mode=True)
    for i in range(len(dataset)):
        sample = dataset[i]
        cv2.imwrite(str(folder / f'{sample["img_path"]}.png'), sample['img'])


def main() -> None:
    """Run the whole example."""
    parser = argparse.ArgumentParser('quickstart', description=__doc__)
    parser.add_argument(
        '--work-dir', type=Path, default='work_dirs/quickstart'
    )
    folder = parser.parse_args().work_dir
    run('train', CONFIG, '--work-dir', folder, '--seed', '0')
    best = max(
        folder.glob('best_*.pth'), key=lambda path: path.stat().st_mtime
    )
    pictures, slices = folder / 'pictures', folder / 'slices'
    run(
        *('test', CONFIG, best, '--work-dir', folder / 'test'),
        *('--out', folder / 'test', '--show-dir', pictures),
    )
    write_slices(slices)
    run('predict', best, slices, '--out', folder / 'predictions')
    picture = sorted(pictures.rglob('*.png'))[0]
    sys.stdout.write(f'image | truth | prediction: {picture.resolve()}\n')


if __name__ == '__main__':
    main()
