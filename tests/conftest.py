"""What every test shares: seeds, few threads, and a torchvision to import."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('KERAS_BACKEND', 'torch')

import pytest
import torch
from mmengine.registry import DefaultScope

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
