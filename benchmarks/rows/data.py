"""Training images of ADE20K's recipe, from files to what a model gets."""

import random
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from mmcv.transforms import Compose
from mmengine.registry import DefaultScope

import upernet_ext.datasets  # noqa: F401  (registers the transforms)
from upernet_ext.config import load_config

from ..row import Call, Case, Goals, Peer, Results, Row
from .heads import CLASSES

_CONFIG = 'configs/_base_/datasets/ade20k.py'
_ROOT = Path(__file__).parents[2]


def _files(case: Case) -> list[dict]:
    """Write photographs of noise and maps of regions; keep the folder.

    Returns:
        What a dataset gives its pipeline, one dictionary an image.
    """
    folder = tempfile.TemporaryDirectory()
    rng = np.random.default_rng(0)
    width, height = case['size']
    found = []
    for i in range(case['images']):
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
        image = cv2.resize(coarse, (width, height))
        image = cv2.add(image, rng.integers(0, 12, image.shape, np.uint8))
        # 0 is what ADE20K leaves unlabelled.
        regions = rng.integers(0, CLASSES + 1, (8, 10), np.uint8)
        labels = cv2.resize(
            regions, (width, height), interpolation=cv2.INTER_NEAREST
        )
        paths = [f'{folder.name}/{i}{end}' for end in ('.jpg', '.png')]
        cv2.imwrite(paths[0], image)
        cv2.imwrite(paths[1], labels)
        found.append(
            dict(
                img_path=paths[0],
                seg_map_path=paths[1],
                label_map=None,
                reduce_zero_label=True,
                # Held here, the folder lives as long as the call.
                folder=folder,
            )
        )
    return found


def _mmseg_pipeline(ours: list[dict]) -> list[dict]:
    """Write mmseg's recipe, with the numbers of ours."""
    kept = ('RandomResize', 'RandomCrop', 'RandomFlip')
    return [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations'),
        *(step for step in ours if step['type'] in kept),
        dict(type='PhotoMetricDistortion'),
        dict(type='PackSegInputs'),
    ]


def _call(case: Case, *, mmseg: bool) -> Call:
    steps = load_config(_ROOT / _CONFIG).train_pipeline
    with DefaultScope.overwrite_default_scope('mmseg'):
        run = Compose(_mmseg_pipeline(steps) if mmseg else steps)
    files = _files(case)

    def call() -> Results:
        # The same draws for both, image by image.
        packed = []
        for i, file in enumerate(files):
            random.seed(i)
            np.random.seed(i)
            torch.manual_seed(i)
            packed.append(run(dict(file, seg_fields=[])))
        labels = [p['data_samples'].gt_sem_seg.data for p in packed]
        return dict(
            images={str(i): p['inputs'] for i, p in enumerate(packed)},
            labels={str(i): x for i, x in enumerate(labels)},
        )

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
