"""A folder of 32 x 32 images and a config that learns it in seconds."""

import importlib.util
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
CLASSES = ('dark', 'middle', 'bright')

CONFIG = """
data_root = {data_root!r}
classes = {classes!r}
train_pipeline = [
    dict(type='upernet_ext.LoadImage'),
    dict(type='upernet_ext.LoadMask'),
    dict(type='upernet_ext.PackInputs'),
]
norm_cfg = dict(type='GN', num_groups=4)
model = dict(
    type='upernet_ext.EncoderDecoder',
    data_preprocessor=dict(
        type='upernet_ext.SegDataPreProcessor',
        mean=[127.5] * 3, std=[64.0] * 3),
    backbone=dict(
        type='upernet_ext.VisionTransformer',
        arch=dict(embed_dims=16, num_layers=4, num_heads=2, mlp_ratio=2),
        patch_size=4, img_size=32, out_indices=(0, 1, 2, 3)),
    neck=dict(type='upernet_ext.MultiLevelNeck', out_channels=16),
    decode_head=dict(
        type='upernet_ext.UPerHead', channels=16, dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        loss_decode=dict(type='upernet_ext.CrossEntropyLoss')),
    auxiliary_head=dict(
        type='upernet_ext.FCNHead', channels=8, dropout_ratio=0.0,
        norm_cfg=norm_cfg,
        loss_decode=dict(
            type='upernet_ext.CrossEntropyLoss', loss_weight=0.4)),
    num_classes=len(classes),
    test_cfg=dict(mode='whole'),
)
dataset = dict(
    type='upernet_ext.FolderDataset', data_root=data_root, classes=classes)
train_dataloader = dict(
    batch_size=2, num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(dataset, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=2, num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        dataset, split='val', test_mode=True, pipeline=train_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(type='upernet_ext.IoUMetric')
test_evaluator = val_evaluator
train_cfg = dict(type='IterBasedTrainLoop', max_iters=5, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
param_scheduler = [dict(type='PolyLR', end=5, by_epoch=False)]
default_scope = 'mmseg'
runner_type = 'upernet_ext.Runner'
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
    visualization=dict(type='upernet_ext.SavePictures'))
log_processor = dict(
    type='upernet_ext.LogProcessor', by_epoch=False, window_size=1,
    num_digits=9)
tta = dict(scales=(1.0, 1.5), flip_axes=(-1,))
"""


def draw(root, name, seed):
    """Three grey bands, at random heights, with noise; and their mask."""
    random = np.random.default_rng(seed)
    cuts = np.sort(random.integers(6, 26, 2))
    labels = (np.arange(32)[:, None] >= cuts).sum(1)
    labels = np.broadcast_to(labels[:, None], (32, 32)).astype(np.uint8)
    image = np.array([40, 130, 220])[labels] + random.normal(0, 8, (32, 32))
    image = image.clip(0, 255).astype(np.uint8)
    for folder, array in (('img_dir', image), ('ann_dir', labels)):
        path = root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)


@dataclass
class Project:
    """A folder with data and a config; ``run`` starts a tool in it."""

    folder: Path
    config: Path
    tools: Path = ROOT / 'tools'

    def run(self, tool, *arguments, code=0, **variables):
        environment = {
            **os.environ,
            'OMP_NUM_THREADS': '1',
            'MKL_NUM_THREADS': '1',
            'PYTHON': sys.executable,
            **variables,
        }
        path = [str(ROOT), os.environ.get('PYTHONPATH', '')]
        environment['PYTHONPATH'] = os.pathsep.join(filter(None, path))
        start = sys.executable if str(tool).endswith('.py') else 'bash'
        command = [start, self.tools / tool, *arguments]
        done = subprocess.run(
            [str(part) for part in command],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp('project')
    for i in range(8):
        draw(folder / 'data', f'train/{i}.png', i)
    for i in range(3):
        draw(folder / 'data', f'val/{i}.png', 100 + i)
    config = folder / 'tiny.py'
    config.write_text(
        CONFIG.format(data_root=str(folder / 'data'), classes=CLASSES)
    )
    return Project(folder, config)


@pytest.fixture
def run():
    """Return a function that calls the ``main`` of a tool in this process."""

    def run(tool, *arguments):
        # mmengine tells the runs of one process apart by the second.
        time.sleep(1.01)
        path = ROOT / 'tools' / tool
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.main([str(argument) for argument in arguments])

    return run


@pytest.fixture
def launch(tmp_path):
    """Return a function that starts a tool in processes of its own."""
    return Project(tmp_path, tmp_path / 'none.py').run


@pytest.fixture
def configs():
    """The folder of configs."""
    return ROOT / 'configs'


@pytest.fixture
def image_folder(tmp_path):
    """A folder of four images to train on and two to validate."""
    for i in range(6):
        folder = tmp_path / 'images'
        draw(folder, f'{"train" if i < 4 else "val"}/{i}.png', i)
    return folder
