"""Train, test and predict on the MNI152 template, which nilearn ships.

Run: python tools/quickstart.py             slices, in 2D
     python tools/quickstart.py --volumes   slabs in nnU-Net's format, in 3D
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import cv2

from upernet_ext.datasets import MNI152Dataset
from upernet_ext.datasets.mni152 import write_mni152_cases

TOOLS = Path(__file__).parent


def run(tool: str, *arguments: str | int | Path) -> None:
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


def newest(folder: Path) -> Path:
    """Return the best checkpoint of a run."""
    found = folder.glob('best_*.pth')
    return max(found, key=lambda path: path.stat().st_mtime)


def slices(folder: Path) -> None:
    """Train, test and predict on axial slices."""
    config = 'upernet_resnet18_mni152'
    run('train', config, '--work-dir', folder, '--seed', '0')
    best = newest(folder)
    run(
        *('test', config, best, '--work-dir', folder / 'test'),
        *('--out', folder / 'test', '--show-dir', folder / 'pictures'),
    )
    write_slices(folder / 'slices')
    run('predict', best, folder / 'slices', '--out', folder / 'predictions')


def volumes(folder: Path) -> None:
    """Train, test and predict on slabs, from nnU-Net's raw format."""
    config = 'upernet_resnet18_nnunet'
    root = write_mni152_cases(folder / 'raw')
    # A patch that two cores train on in a quarter of a second.
    options = [
        *('--nnunet', root, '3d_fullres', '0', '--cfg-options'),
        *('crop_size=(24,80,80)', 'max_iters=300', 'val_interval=300'),
        'num_workers=1',
    ]
    run('train', config, '--work-dir', folder, '--seed', 0, '--amp', *options)
    best = newest(folder)
    run(
        *('test', config, best, '--work-dir', folder / 'test'),
        *('--out', folder / 'test', '--show-dir', folder / 'pictures'),
        *options,
    )
    image = root / 'imagesTr' / 'middle_0000.nii.gz'
    run('predict', best, image, '--out', folder / 'predictions')


def main() -> None:
    """Run the whole example."""
    parser = argparse.ArgumentParser('quickstart', description=__doc__)
    parser.add_argument('--volumes', action='store_true')
    parser.add_argument('--work-dir', type=Path)
    args = parser.parse_args()
    name = 'quickstart-3d' if args.volumes else 'quickstart'
    folder = args.work_dir or Path('work_dirs', name)
    (volumes if args.volumes else slices)(folder)
    picture = sorted((folder / 'pictures').rglob('*.png'))[0]
    sys.stdout.write(f'image | truth | prediction: {picture.resolve()}\n')


if __name__ == '__main__':
    main()
