"""DenseNet of torchvision, MONAI and mmpretrain: renamed, equal, and back."""

import pytest
import torch
from monai.networks.nets import DenseNet as MonaiDenseNet
from torch import nn

from upernet_ext.interop import load_pretrained
from upernet_ext.interop.densenet import STYLES
from upernet_ext.models import DenseNet

BLOCKS = (1, 2, 1, 2)
STYLE = {style.name: style for style in STYLES}


def _randomise(net: nn.Module) -> nn.Module:
    for name, value in net.state_dict().items():
        if 'running_var' in name:
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            fan = value[0].numel() if value.ndim > 1 else 4
            value.normal_(std=fan**-0.5)
    net.eval()  # mmpretrain's returns None
    return net


def _loaded(theirs: dict, style: str, path, **kwargs) -> DenseNet:
    assert [s.name for s in STYLES if s.recognises(theirs)] == [style]
    torch.save(theirs, path / 'weights.pth')
    ours = DenseNet(block_layers=BLOCKS, growth=4, **kwargs).eval()
    load_pretrained(ours, str(path / 'weights.pth'))
    return ours


def _check_back(ours: DenseNet, theirs: dict, style: str) -> None:
    back = STYLE[style].to_style(ours.state_dict())
    for name, value in back.items():
        assert torch.equal(value, theirs[name]), name


@torch.no_grad()
def test_monai_in_3d(tmp_path) -> None:
    theirs = MonaiDenseNet(
        3, 1, 2, init_features=8, growth_rate=4, block_config=BLOCKS
    )
    weights = _randomise(theirs).state_dict()
    ours = _loaded(weights, 'monai', tmp_path, in_channels=1, spatial_dims=3)
    _check_back(ours, weights, 'monai')
    x = torch.randn(1, 1, 32, 48, 32)
    torch.testing.assert_close(ours(x)[-1], theirs.features(x).relu())


@pytest.mark.needs_torchvision
@torch.no_grad()
def test_mmpretrain(tmp_path) -> None:
    from mmpretrain.models import backbones

    theirs = backbones.DenseNet(
        dict(growth_rate=4, depths=list(BLOCKS), init_channels=8)
    )
    weights = _randomise(theirs).state_dict()
    ours = _loaded(weights, 'mmpretrain', tmp_path)
    _check_back(ours, weights, 'mmpretrain')
    x = torch.randn(1, 3, 64, 96)
    torch.testing.assert_close(ours(x)[-1], theirs(x)[-1])


@pytest.mark.needs_torchvision
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@torch.no_grad()
def test_torchvision_and_its_old_files(tmp_path) -> None:
    from torchvision import models

    theirs = models.DenseNet(4, BLOCKS, 8)
    weights = _randomise(theirs).state_dict()
    x = torch.randn(1, 3, 64, 96)
    ours = _loaded(weights, 'timm', tmp_path)
    _check_back(ours, weights, 'torchvision')
    torch.testing.assert_close(ours(x)[-1], theirs.features(x).relu())
    # Files of before 2018: ``denselayer1.norm.1``.
    old = {
        name.replace('.norm1.', '.norm.1.')
        .replace('.norm2.', '.norm.2.')
        .replace('.conv1.', '.conv.1.')
        .replace('.conv2.', '.conv.2.'): value
        for name, value in weights.items()
    }
    again = _loaded(old, 'torchvision', tmp_path)
    for name, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
