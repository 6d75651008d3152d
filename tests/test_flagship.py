"""The flagship: ViT-L/16 at full size, on a folder in ADE20K's layout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
CONFIG = 'configs/upernet_vit-l_ade20k.py'


def _train(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, 'tools/train.py', CONFIG, *arguments],
        cwd=ROOT,
        env={**os.environ, 'PYTHONWARNINGS': 'ignore'},
        text=True,
        capture_output=True,
    )


@pytest.mark.slow
@pytest.mark.serial
def test_missing_data_is_named_in_one_line(tmp_path: Path) -> None:
    done = _train('--work-dir', str(tmp_path))
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert 'data/ade/ADEChallengeData2016' in line
    assert 'Traceback' not in done.stderr


@pytest.mark.slow
@pytest.mark.serial
def test_the_model_is_built_before_the_data_are_read(tmp_path: Path) -> None:
    done = _train(
        *('--work-dir', str(tmp_path)),
        *('--cfg-options', 'model.backbone.out_indices=[99]'),
    )
    assert done.returncode != 0
    assert 'out_indices=(99,) must rise and lie in [0, 24)' in done.stderr
    assert 'ADEChallengeData2016' not in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.serial
def test_one_full_size_step_on_a_folder_like_ade20k(tmp_path: Path) -> None:
    """Takes about a minute and 12 GiB on two cores."""
    generator = np.random.default_rng(0)
    root = tmp_path / 'ADEChallengeData2016'
    for name in ('images', 'annotations'):
        for split in ('training', 'validation'):
            (root / name / split).mkdir(parents=True)
    for i in range(2):
        image = generator.integers(0, 256, (540, 600, 3), np.uint8)
        # 0 is ADE20K's "other", 1 to 150 are the classes
        mask = np.repeat(
            generator.integers(0, 151, (54, 600), np.uint8), 10, 0
        )
        for split in ('training', 'validation'):
            cv2.imwrite(str(root / 'images' / split / f'{i}.jpg'), image)
            cv2.imwrite(str(root / 'annotations' / split / f'{i}.png'), mask)
    done = _train(
        *('--work-dir', str(tmp_path / 'run'), '--seed', '0'),
        '--cfg-options',
        f'data_root={root}',
        'max_iters=1',
        'num_workers=0',
        'train_dataloader.batch_size=1',
        'model.backbone.pretrained=None',
        'default_hooks.logger.interval=1',
        # the optimiser's state alone is three gigabytes
        'default_hooks.checkpoint.save_last=False',
        'default_hooks.checkpoint.save_best=None',
        'train_cfg.val_interval=2',
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (scalars,) = (tmp_path / 'run').rglob('scalars.json')
    (step,) = [
        entry
        for line in scalars.read_text().splitlines()
        if 'loss' in (entry := json.loads(line))
    ]
    # A fresh classifier is undecided between 150 classes: ln 150 = 5.01,
    # plus 0.4 of the same for the auxiliary head.
    assert step['decode.loss_ce'] == pytest.approx(np.log(150), abs=0.3)
    assert step['aux.loss_ce'] == pytest.approx(0.4 * np.log(150), abs=0.15)
    log = next((tmp_path / 'run').rglob('*.log')).read_text()
    assert 'RANDOM weights' in log
