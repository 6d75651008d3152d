"""What every test shares: seeds, few threads, and a torchvision to import."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('KERAS_BACKEND', 'torch')

import nibabel
import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from scipy import ndimage

# timm and mmpretrain import torchvision, which has no build for the CPU torch
# of these tests. `make test` puts the CUDA build, without its dependencies,
# into a folder of its own that only the tests see.
_EXTRA = Path(sys.prefix) / 'share' / 'upernet_ext_tests'
if _EXTRA.is_dir():
    sys.path.append(str(_EXTRA))
    # Its compiled operators cannot load, and torchvision registers fake
    # kernels for two of them: they must at least be declared.
    _OPERATORS = torch.library.Library('torchvision', 'DEF')
    for _name in ('nms', 'qnms'):
        _OPERATORS.define(
            f'{_name}(Tensor dets, Tensor scores, float threshold) -> Tensor'
        )

needs_torchvision = pytest.mark.skipif(
    not _EXTRA.is_dir(), reason='torchvision is not there: run `make test`'
)
needs_medicai = pytest.mark.skipif(
    find_spec('medicai') is None,
    reason='medicai is not there: run `make test`',
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        'markers', 'needs_torchvision: uses timm or mmpretrain'
    )
    config.addinivalue_line('markers', 'needs_medicai: runs medicai on Keras')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker('needs_torchvision'):
            item.add_marker(needs_torchvision)
        if item.get_closest_marker('needs_medicai'):
            item.add_marker(needs_medicai)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_default_scope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo the default scope that a Runner or a config leaves behind."""
    monkeypatch.setattr(
        DefaultScope, '_instance_dict', type(DefaultScope._instance_dict)()
    )


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's Dataset007: ten oblique cases of two blobs, two channels."""
    for kind in ('raw', 'preprocessed', 'results'):
        monkeypatch.setenv(f'nnUNet_{kind}', str(tmp_path / kind))
    root = tmp_path / 'raw' / 'Dataset007_Blobs'
    affine = np.array(
        [[0, -1.2, 0, 7], [0.9, 0, 0, 8], [0, 0, 1.5, -9], [0, 0, 0, 1.0]]
    )
    for i in range(10):
        rng = np.random.default_rng(i)
        noise = ndimage.gaussian_filter(rng.normal(size=(20, 18, 16)), 2)
        labels = np.digitize(noise, [0.03, 0.08]).astype(np.uint8)
        arrays = [labels * 3.0 + noise, noise - labels, labels]
        folders = ['imagesTr', 'imagesTr', 'labelsTr']
        ends = ['_0000', '_0001', '']
        for array, folder, end in zip(arrays, folders, ends, strict=True):
            path = root / folder / f'case_{i}{end}.nii.gz'
            path.parent.mkdir(parents=True, exist_ok=True)
            dtype = np.uint8 if folder == 'labelsTr' else np.float32
            nibabel.save(
                nibabel.Nifti1Image(array.astype(dtype), affine), path
            )
    description = dict(
        channel_names={'0': 'T1', '1': 'T2'},
        labels=dict(background=0, left=1, right=2),
        numTraining=10,
        file_ending='.nii.gz',
    )
    (root / 'dataset.json').write_text(json.dumps(description))
    return root
