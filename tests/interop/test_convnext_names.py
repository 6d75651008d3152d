"""ConvNeXt of five libraries: recognised, renamed, equal, and back."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from upernet_ext.interop import WeightsError, load_pretrained
from upernet_ext.interop.convnext import STYLES
from upernet_ext.models import ConvNeXt

DEPTHS, DIMS = [1, 2, 1, 1], [8, 12, 16, 24]
STYLE = {style.name: style for style in STYLES}
both_versions = pytest.mark.parametrize('v2', [False, True])


def _randomise(net: nn.Module) -> nn.Module:
    for value in net.state_dict().values():
        fan = value[0].numel() if value.ndim > 1 else 4
        value.normal_(std=fan**-0.5)
    net.eval()  # mmpretrain's returns None
    return net


def _small(**kwargs) -> ConvNeXt:
    return ConvNeXt(depths=DEPTHS, projection_dims=DIMS, **kwargs).eval()


def _loaded(theirs: Mapping[str, Tensor], style: str, path, **kwargs):
    """Load a file into ours, and check that the way back is bit for bit."""
    assert [s.name for s in STYLES if s.recognises(theirs)] == [style]
    file = path / 'weights.pth'
    torch.save(dict(theirs), file)
    ours = _small(**kwargs)
    receipt = load_pretrained(ours, str(file))
    assert receipt.style == style
    back = STYLE[style].to_style(ours.state_dict())
    known = {
        k.split('.', 1)[1] if '.' in k else k: v for k, v in theirs.items()
    }
    for name, value in back.items():
        original = theirs[name] if name in theirs else known[name]
        assert torch.equal(value, original), name
    return ours


@both_versions
@torch.no_grad()
def test_transformers(v2: bool, tmp_path) -> None:
    import transformers

    version = 'V2' if v2 else ''
    config = getattr(transformers, f'ConvNext{version}Config')(
        depths=DEPTHS, hidden_sizes=DIMS
    )
    theirs = getattr(transformers, f'ConvNext{version}ForImageClassification')(
        config
    )
    _randomise(theirs)
    ours = _loaded(theirs.state_dict(), 'transformers', tmp_path, v2=v2)
    x = torch.randn(1, 3, 64, 96)
    wanted = theirs(x, output_hidden_states=True).hidden_states[1:]
    for mine, yours in zip(ours(x), wanted, strict=True):
        torch.testing.assert_close(mine, yours)


@torch.no_grad()
def test_backbone_of_transformers_with_its_norms(tmp_path) -> None:
    from transformers import ConvNextBackbone, ConvNextConfig

    config = ConvNextConfig(
        depths=DEPTHS, hidden_sizes=DIMS, out_indices=[1, 2, 3, 4]
    )
    theirs = _randomise(ConvNextBackbone(config))
    ours = _loaded(
        theirs.state_dict(), 'transformers', tmp_path, output_norm=True
    )
    x = torch.randn(1, 3, 64, 96)
    for mine, yours in zip(ours(x), theirs(x).feature_maps, strict=True):
        torch.testing.assert_close(mine, yours)


@pytest.mark.needs_torchvision
@both_versions
@torch.no_grad()
def test_mmpretrain(v2: bool, tmp_path) -> None:
    from mmpretrain.models import backbones

    theirs = backbones.ConvNeXt(
        dict(depths=DEPTHS, channels=DIMS),
        use_grn=v2,
        layer_scale_init_value=0.0 if v2 else 1e-6,
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
    )
    _randomise(theirs)
    ours = _loaded(
        theirs.state_dict(), 'mmpretrain', tmp_path, v2=v2, output_norm=True
    )
    x = torch.randn(1, 3, 64, 96)
    for mine, yours in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(mine, yours)


@pytest.mark.needs_torchvision
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@torch.no_grad()
def test_torchvision(tmp_path) -> None:
    from torchvision.models import convnext

    sizes = zip(DIMS, [*DIMS[1:], None], DEPTHS, strict=True)
    theirs = convnext.ConvNeXt([convnext.CNBlockConfig(*row) for row in sizes])
    _randomise(theirs)
    ours = _loaded(theirs.state_dict(), 'torchvision', tmp_path)
    x = torch.randn(1, 3, 64, 96)
    y, wanted = x, []
    for i, stage in enumerate(theirs.features):
        y = stage(y)
        if i % 2:
            wanted.append(y)
    for mine, yours in zip(ours(x), wanted, strict=True):
        torch.testing.assert_close(mine, yours)


@pytest.mark.needs_torchvision
@both_versions
def test_official_names_are_those_that_timm_reads(v2: bool, tmp_path) -> None:
    from timm.models import convnext

    version = dict(use_grn=True, ls_init_value=None) if v2 else {}
    theirs = convnext.ConvNeXt(depths=DEPTHS, dims=DIMS, **version)
    ours = _randomise(_small(v2=v2))
    official = STYLE['official'].to_style(ours.state_dict())
    assert 'downsample_layers.3.1.weight' in official
    assert 'stages.1.1.pwconv2.bias' in official
    if v2:
        assert official['stages.0.0.grn.gamma'].shape == (1, 1, 1, 32)
    read = convnext.checkpoint_filter_fn(dict(official), theirs)
    assert read.keys() == ours.state_dict().keys()
    for name, value in ours.state_dict().items():
        assert torch.equal(read[name], value), name
    again = _loaded(official, 'official', tmp_path, v2=v2)
    for name, value in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@torch.no_grad()
def test_linear_layers_become_the_convolutions_of_the_smallest(
    tmp_path,
) -> None:
    first = _randomise(ConvNeXt('convnext_v2_atto', out_indices=(0,)))
    file = tmp_path / 'weights.pth'
    torch.save(STYLE['official'].to_style(first.state_dict()), file)
    second = ConvNeXt('convnext_v2_atto', out_indices=(0,)).eval()
    receipt = load_pretrained(second, str(file))
    assert {change.kind for change in receipt.changes} == {'reshaped'}
    assert len(receipt.changes) == 4
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(first(x)[0], second(x)[0])


@pytest.mark.parametrize('fault', ['renamed', 'shape', 'prefix'])
def test_a_fault_in_the_file_is_named(fault: str, tmp_path) -> None:
    weights = STYLE['official'].to_style(_small().state_dict())
    name = 'stages.2.0.pwconv1.weight'
    if fault == 'renamed':
        weights['stages.2.0.pwconv_1.weight'] = weights.pop(name)
    elif fault == 'shape':
        weights[name] = weights[name][:-1]
    else:
        weights = {f'my_{k}': v for k, v in weights.items()}
        name = 'stem.0.weight'
    torch.save(weights, tmp_path / 'weights.pth')
    with pytest.raises(WeightsError) as error:
        load_pretrained(_small(), str(tmp_path / 'weights.pth'))
    ours = name.replace('.0.pwconv1', '.blocks.0.mlp.fc1')
    assert ours in str(error.value)
