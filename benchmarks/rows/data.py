"""Training images of ADE20K's recipe, from files to what a model gets."""

import random
import shutil
import tempfile
import weakref
from pathlib import Path

import cv2
import numpy as np
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.registry import DefaultScope

import upernet_ext.datasets  # noqa: F401  (registers the transforms)
from upernet_ext.config import load_config

from ..row import Call, Case, Goals, Peer, Results, Row
from .heads import CLASSES

_CONFIG = 'configs/_base_/datasets/ade20k.py'
_ROOT = Path(__file__).parents[2]


def _files(case: Case, folder: str) -> list[dict]:
    """Write photographs of noise and maps of regions.

    A photograph has 42 KB, as ADE20K's have: 923 MB for 22,210 with labels.

    Returns:
        What a dataset gives its pipeline, one dictionary an image.
    """
    rng = np.random.default_rng(0)
    width, height = case['size']
    found = []
    for i in range(case['images']):
        coarse = rng.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
        image = cv2.resize(coarse, (width, height))
        image = cv2.add(image, rng.integers(0, 8, image.shape, np.uint8))
        # 0 is what ADE20K leaves unlabelled.
        regions = rng.integers(0, CLASSES + 1, (8, 10), np.uint8)
        labels = cv2.resize(
            regions, (width, height), interpolation=cv2.INTER_NEAREST
        )
        paths = [f'{folder}/{i}{end}' for end in ('.jpg', '.png')]
        cv2.imwrite(paths[0], image, [cv2.IMWRITE_JPEG_QUALITY, 75])
        cv2.imwrite(paths[1], labels)
        found.append(
            dict(
                img_path=paths[0],
                seg_map_path=paths[1],
                label_map=None,
                reduce_zero_label=True,
            )
        )
    return found


def _mmseg_pipeline(config: Config) -> list[dict]:
    """Write mmseg's recipe (configs/_base_/datasets/ade20k.py)."""
    return [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        dict(
            type='RandomResize',
            scale=config.img_scale,
            ratio_range=(0.5, 2.0),
            keep_ratio=True,
        ),
        dict(
            type='RandomCrop', crop_size=config.crop_size, cat_max_ratio=0.75
        ),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
        dict(type='PackSegInputs'),
    ]


def _call(case: Case, *, mmseg: bool) -> Call:
    config = load_config(_ROOT / _CONFIG)
    steps = _mmseg_pipeline(config) if mmseg else config.train_pipeline
    with DefaultScope.overwrite_default_scope('mmseg'):
        run = Compose(steps)
    folder = tempfile.mkdtemp()
    files = _files(case, folder)

    def call() -> Results:
        # The same draws for both, image by image.
        packed = []
        for i, file in enumerate(files):
            random.seed(i)
            np.random.seed(i)
            packed.append(run(dict(file, seg_fields=[])))
        labels = [p['data_samples'].gt_sem_seg.data for p in packed]
        return dict(
            images={str(i): p['inputs'] for i, p in enumerate(packed)},
            labels={str(i): x for i, x in enumerate(labels)},
        )

    weakref.finalize(call, shutil.rmtree, folder)
    return call


def _ours(case: Case) -> Call:
    return _call(case, mmseg=False)


def _mmseg(case: Case) -> Call:
    return _call(case, mmseg=True)


_SIZES = dict(size=(683, 512), images=16)

ROWS = (
    Row(
        'pipeline',
        'training images, ADE20K recipe',
        _ours,
        (Peer('mmseg', _mmseg, Goals(time=0.55)),),
        reduced=_SIZES,
        full=_SIZES,
        floating=False,
        torch_only=False,
    ),
)
