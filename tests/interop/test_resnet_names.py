"""ResNet and RegNet of other libraries: renamed, equal, and back."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from upernet_ext.interop import WeightsError, load_pretrained
from upernet_ext.interop.styles import STYLES
from upernet_ext.models import RegNet, ResNet, ResNetV2, Xception
from upernet_ext.models.backbones.encoder import PyramidEncoder

SHORT = (1, 2, 1, 1)


def _randomise(net: nn.Module) -> nn.Module:
    for name, value in net.state_dict().items():
        if 'running_var' in name:
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            fan = value[0].numel() if value.ndim > 1 else 4
            value.normal_(std=fan**-0.5)
    net.eval()  # mmpretrain's returns None
    return net


def _load(
    ours: PyramidEncoder, theirs: Mapping[str, Tensor], style: str, path
) -> PyramidEncoder:
    """Load a file into ours, and check that the way back is bit for bit."""
    styles = STYLES[ours.key_family]
    assert [s.name for s in styles if s.recognises(theirs)] == [style]
    torch.save(dict(theirs), path / 'weights.pth')
    receipt = load_pretrained(ours, str(path / 'weights.pth'))
    # Names that are the model's own need no style.
    assert receipt.style == ('' if style == 'timm' else style)
    (chosen,) = (s for s in styles if s.name == style)
    back = chosen.to_style(ours.state_dict())
    # A base model's names lack the prefix that one with a head has.
    bare = {
        k.removeprefix(f'{ours.key_family}.'): v for k, v in theirs.items()
    }
    for name, value in back.items():
        assert torch.equal(value, bare[name]), name
    assert all(
        name.startswith(('classifier.', 'fc.', 'head.'))
        for name in bare.keys() - back.keys()
    )
    return ours.eval()


def _assert_levels(
    ours: PyramidEncoder, wanted: list[Tensor], x: Tensor
) -> None:
    maps = ours(x)[-len(wanted) :]
    for mine, yours in zip(maps, wanted, strict=True):
        torch.testing.assert_close(mine, yours)


@pytest.mark.parametrize('arch', ['resnet18', 'resnet50'])
@torch.no_grad()
def test_resnet_of_transformers(arch: str, tmp_path) -> None:
    import transformers

    deep = arch == 'resnet50'
    depths = SHORT if deep else (2, 2, 2, 2)
    config = transformers.ResNetConfig(
        depths=depths,
        layer_type='bottleneck' if deep else 'basic',
        hidden_sizes=[c * (4 if deep else 1) for c in (64, 128, 256, 512)],
    )
    theirs = _randomise(transformers.ResNetForImageClassification(config))
    ours = _load(
        ResNet(arch, depths), theirs.state_dict(), 'transformers', tmp_path
    )
    x = torch.randn(1, 3, 70, 100)
    wanted = theirs.resnet(x, output_hidden_states=True).hidden_states
    _assert_levels(ours, wanted[1:], x)


@pytest.mark.parametrize('kind', ['x', 'y'])
@torch.no_grad()
def test_regnet_of_transformers(kind: str, tmp_path) -> None:
    import transformers

    ours = RegNet(f'regnet{kind}_002')
    config = transformers.RegNetConfig(
        embedding_size=32,
        hidden_sizes=list(ours.out_channels[1:]),
        depths=[1, 1, 4, 7],
        groups_width=8,
        layer_type=kind,
    )
    theirs = _randomise(transformers.RegNetForImageClassification(config))
    ours = _load(ours, theirs.state_dict(), 'transformers', tmp_path)
    x = torch.randn(1, 3, 70, 100)
    wanted = theirs.regnet(x, output_hidden_states=True).hidden_states
    _assert_levels(ours, wanted[1:], x)


@pytest.mark.parametrize(
    ('arch', 'kind', 'style'),
    [
        ('resnet50', 'ResNet', 'timm'),
        ('resnet50vc', 'ResNetV1c', 'mmseg'),
        ('resnet50vd', 'ResNetV1d', 'mmseg'),
        ('resnext50', 'ResNeXt', 'timm'),
    ],
)
@torch.no_grad()
def test_resnet_of_mmseg(arch: str, kind: str, style: str, tmp_path) -> None:
    from mmseg.models import backbones

    more = dict(groups=32, base_width=4) if kind == 'ResNeXt' else {}
    theirs = _randomise(getattr(backbones, kind)(depth=50, **more))
    ours = _load(ResNet(arch), theirs.state_dict(), style, tmp_path)
    x = torch.randn(1, 3, 70, 100)
    _assert_levels(ours, theirs(x), x)


@pytest.mark.parametrize('kind', ['ResNetV1c', 'ResNet'])
@torch.no_grad()
def test_dilated_resnet_of_mmseg(kind: str, tmp_path) -> None:
    from mmseg.models import backbones

    # As its recipes for PSPNet and DeepLab.
    theirs = getattr(backbones, kind)(
        depth=50,
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        contract_dilation=True,
    )
    _randomise(theirs)
    arch, style = {
        'ResNetV1c': ('resnet50vc', 'mmseg'),
        'ResNet': ('resnet50', 'timm'),
    }[kind]
    ours = ResNet(arch, output_stride=8)
    _load(ours, theirs.state_dict(), style, tmp_path)
    x = torch.randn(1, 3, 70, 100)
    _assert_levels(ours, theirs(x), x)


@pytest.mark.needs_torchvision
@pytest.mark.parametrize(
    ('arch', 'kind', 'style'),
    [
        ('resnet50vc', 'ResNetV1c', 'mmpretrain'),
        ('resnet50vd', 'ResNetV1d', 'mmpretrain'),
        ('seresnet50', 'SEResNet', 'mmpretrain'),
        ('seresnext50', 'SEResNeXt', 'mmpretrain'),
    ],
)
@torch.no_grad()
def test_resnet_of_mmpretrain(
    arch: str, kind: str, style: str, tmp_path
) -> None:
    from mmpretrain.models import backbones

    theirs = getattr(backbones, kind)(depth=50, out_indices=(0, 1, 2, 3))
    _randomise(theirs)
    ours = _load(ResNet(arch), theirs.state_dict(), style, tmp_path)
    x = torch.randn(1, 3, 70, 100)
    _assert_levels(ours, theirs(x), x)


@pytest.mark.needs_torchvision
@torch.no_grad()
def test_regnet_of_mmpretrain(tmp_path) -> None:
    from mmpretrain.models import backbones

    theirs = backbones.RegNet('regnetx_400mf', out_indices=(0, 1, 2, 3))
    _randomise(theirs)
    ours = RegNet('regnetx_004')
    _load(ours, theirs.state_dict(), 'mmpretrain', tmp_path)
    x = torch.randn(1, 3, 70, 100)
    _assert_levels(ours, theirs(x), x)
    with pytest.raises(ValueError, match='RegNetX only'):
        STYLES['regnet'][2].to_style(RegNet('regnety_002').state_dict())


@pytest.mark.needs_torchvision
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@torch.no_grad()
def test_torchvision(tmp_path) -> None:
    from torchvision import models

    x = torch.randn(1, 3, 70, 100)
    theirs = _randomise(models.resnet18())
    ours = _load(ResNet('resnet18'), theirs.state_dict(), 'timm', tmp_path)
    last = nn.Sequential(*list(theirs.children())[:-2])(x)
    _assert_levels(ours, [last], x)
    theirs = _randomise(models.regnet_y_400mf())
    ours = RegNet('regnety_004')
    _load(ours, theirs.state_dict(), 'torchvision', tmp_path)
    _assert_levels(ours, [theirs.trunk_output(theirs.stem(x))], x)


@pytest.mark.parametrize(
    'build',
    [
        lambda: ResNet('resnet18', base_channels=8),
        lambda: ResNetV2(depths=(1, 1, 1, 1), base_channels=8),
        lambda: RegNet('regnety_002'),
        lambda: Xception(out_indices=(0, 1)),
    ],
)
def test_own_names_and_a_wrong_one(build, tmp_path) -> None:
    net = build()
    weights = _randomise(net).state_dict()
    weights['fc.weight'] = weights['head.fc.weight'] = torch.zeros(2, 2)
    again = build()
    _load(again, {**weights}, 'timm', tmp_path)
    for name, value in again.state_dict().items():
        assert torch.equal(value, weights[name]), name
    name = next(reversed(net.state_dict()))
    weights[f'{name}_typo'] = weights.pop(name)
    torch.save(weights, tmp_path / 'wrong.pth')
    with pytest.raises(WeightsError, match=f'{name}_typo'):
        load_pretrained(build(), str(tmp_path / 'wrong.pth'))


@pytest.mark.parametrize(
    ('library', 'arch', 'lack'),
    [
        ('transformers', 'resnet18vd', 'has no deep stem'),
        ('transformers', 'seresnet18', 'has no squeezes'),
        ('mmseg', 'seresnet18', 'has no squeezes'),
    ],
)
def test_what_a_library_lacks_is_told(
    library: str, arch: str, lack: str
) -> None:
    (style,) = (s for s in STYLES['resnet'] if s.name == library)
    weights = ResNet(arch, base_channels=8).state_dict()
    with pytest.raises(ValueError, match=f'ResNet of {library} {lack}'):
        style.to_style(weights)
