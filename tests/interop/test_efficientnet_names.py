"""EfficientNet and MobileNetV2 of other libraries: equal, and back."""

from collections.abc import Mapping

import pytest
import torch
from mmseg.models import MobileNetV2
from torch import Tensor, nn

from upernet_ext.interop import load_pretrained
from upernet_ext.interop.efficientnet import STYLES
from upernet_ext.models import EfficientNet

STYLE = {style.name: style for style in STYLES}
TENSORFLOW = dict(padding='same', norm_cfg=dict(type='BN', eps=1e-3))
silent = pytest.mark.filterwarnings('ignore::DeprecationWarning')


def _randomise(net: nn.Module) -> nn.Module:
    for name, value in net.state_dict().items():
        if 'running_var' in name:
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            fan = value[0].numel() if value.ndim > 1 else 4
            value.normal_(std=fan**-0.5)
    net.eval()  # mmpretrain's returns None
    return net


def _loaded(
    theirs: Mapping[str, Tensor], style: str, path, **kwargs
) -> EfficientNet:
    """Load a file into ours, and check that the way back is bit for bit."""
    assert [s.name for s in STYLES if s.recognises(theirs)] == [style]
    torch.save(dict(theirs), path / 'weights.pth')
    ours = EfficientNet(**kwargs).eval()
    load_pretrained(ours, str(path / 'weights.pth'))
    bare = {k.removeprefix('mobilenet_v2.'): v for k, v in theirs.items()}
    for name, value in STYLE[style].to_style(ours.state_dict()).items():
        assert torch.equal(value, bare[name]), name
    return ours


@pytest.mark.needs_torchvision
@silent
@pytest.mark.parametrize(
    ('name', 'arch'),
    [
        ('efficientnet_b0', 'efficientnet_b0'),
        ('efficientnet_v2_s', 'efficientnet_v2_s'),
        ('mobilenet_v2', 'mobilenetv2_100'),
    ],
)
@torch.no_grad()
def test_torchvision(name: str, arch: str, tmp_path) -> None:
    from torchvision import models

    theirs = _randomise(getattr(models, name)())
    eps = theirs.features[0][1].eps
    ours = _loaded(
        theirs.state_dict(),
        'torchvision',
        tmp_path,
        arch=arch,
        norm_cfg=dict(type='BN', eps=eps),
    )
    x = torch.randn(1, 3, 64, 96)
    y, maps = x, []
    for stage in theirs.features[:-1]:
        y = stage(y)
        maps.append(y)
    # The last map of each size.
    wanted = {m.shape[2:]: m for m in maps}
    for mine, yours in zip(ours(x), wanted.values(), strict=True):
        torch.testing.assert_close(mine, yours)


@torch.no_grad()
def test_mmseg(tmp_path) -> None:
    theirs = _randomise(MobileNetV2(0.5, out_indices=(0, 1, 2, 4, 6)))
    ours = _loaded(
        theirs.state_dict(), 'mmseg', tmp_path, arch='mobilenetv2_050'
    )
    x = torch.randn(1, 3, 64, 96)
    for mine, yours in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(mine, yours)


@torch.no_grad()
def test_efficientnet_of_transformers(tmp_path) -> None:
    from transformers import EfficientNetConfig, EfficientNetModel

    config = EfficientNetConfig(
        width_coefficient=0.5, depth_coefficient=1.0, hidden_dim=640
    )
    theirs = _randomise(EfficientNetModel(config))
    ours = _loaded(
        theirs.state_dict(),
        'transformers',
        tmp_path,
        arch='efficientnet_b0',
        width=0.5,
        **TENSORFLOW,
    )
    # Its padding of strided convolutions assumes even sizes.
    x = torch.randn(1, 3, 64, 96)
    states = theirs(x, output_hidden_states=True).hidden_states
    wanted = {s.shape[2:]: s for s in states[:-1]}
    wanted[states[-2].shape[2:]] = states[-2]
    torch.testing.assert_close(ours(x)[0], wanted[(32, 48)])


@torch.no_grad()
def test_mobilenet_v2_of_transformers(tmp_path) -> None:
    from transformers import (
        MobileNetV2Config,
        MobileNetV2ForImageClassification,
    )

    theirs = MobileNetV2ForImageClassification(
        MobileNetV2Config(depth_multiplier=0.5)
    )
    _randomise(theirs)
    ours = _loaded(
        theirs.state_dict(),
        'transformers',
        tmp_path,
        arch='mobilenetv2_050',
        **TENSORFLOW,
    )
    x = torch.randn(1, 3, 64, 96)
    states = theirs(x, output_hidden_states=True).hidden_states
    wanted = {s.shape[2:]: s for s in states}
    for mine, yours in zip(ours(x)[1:], wanted.values(), strict=True):
        torch.testing.assert_close(mine, yours)


def test_networks_that_a_library_lacks_are_refused() -> None:
    with torch.device('meta'):
        lite = EfficientNet('efficientnet_lite0').state_dict()
        v2 = EfficientNet('efficientnet_v2_b0').state_dict()
    with pytest.raises(ValueError, match='torchvision has'):
        STYLE['torchvision'].to_style(lite)
    with pytest.raises(ValueError, match='only MobileNetV2'):
        STYLE['mmseg'].to_style(lite)
    with pytest.raises(ValueError, match='transformers has'):
        STYLE['transformers'].to_style(v2)
