"""Sizes and weights of the borrowed hierarchical networks."""

import re
from collections.abc import Callable
from pathlib import Path

import mmengine
import mmseg
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from upernet_ext.models.backbones import build_backbone
from upernet_ext.models.backbones.hierarchical import ENCODERS

TIMM = {
    'swin_tiny': 'swin_tiny_patch4_window7_224',
    'swin_small': 'swin_small_patch4_window7_224',
    'swin_base': 'swin_base_patch4_window12_384',
    'swin_large': 'swin_large_patch4_window12_384',
    'swin_v2_tiny': 'swinv2_tiny_window8_256',
    'swin_v2_small': 'swinv2_small_window8_256',
    'swin_v2_base': 'swinv2_base_window8_256',
    'swin_v2_large': 'swinv2_large_window12to16_192to256',
    **{f'pvt_v2_b{i}': f'pvt_v2_b{i}' for i in range(6)},
    'hrnet_w18': 'hrnet_w18',
    'hrnet_w32': 'hrnet_w32',
    'hrnet_w48': 'hrnet_w48',
}
# Norms of a map and classifiers, which only one of two networks has.
OUTSIDE = re.compile(
    r'(norm\d?|head|incre_modules|downsamp_modules|final_layer|classifier)\.'
)


class _RealNumbers(TorchFunctionMode):
    """Keep the rates that timm computes while it builds off meta."""

    def __torch_function__(
        self,
        func: Callable,
        types: object,
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        if func is torch.linspace:
            kwargs['device'] = 'cpu'
        return func(*args, **kwargs)


def _build(name: str) -> nn.Module:
    with torch.device('meta'), _RealNumbers():
        return build_backbone(
            ENCODERS[name].backbone, in_channels=3, spatial_dims=2
        )[0]


def _size(net: nn.Module) -> int:
    return sum(
        value.numel()
        for name, value in net.named_parameters()
        if not OUTSIDE.match(name)
    )


@pytest.mark.needs_torchvision
@pytest.mark.parametrize('name', TIMM)
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_as_many_parameters_as_timms(name: str) -> None:
    timm = pytest.importorskip('timm')
    with torch.device('meta'), _RealNumbers():
        theirs = timm.create_model(TIMM[name])
    assert _size(_build(name)) == _size(theirs)


@pytest.mark.parametrize('version', range(6))
def test_mit_is_as_large_as_that_of_transformers(version: int) -> None:
    transformers = pytest.importorskip('transformers')
    name = f'mit_b{version}'
    backbone = ENCODERS[name].backbone
    width = backbone['embed_dims']
    config = transformers.SegformerConfig(
        depths=backbone['num_layers'],
        hidden_sizes=[width * heads for heads in (1, 2, 5, 8)],
    )
    with torch.device('meta'), _RealNumbers():
        theirs = transformers.SegformerModel(config)
    assert _size(_build(name)) == sum(p.numel() for p in theirs.parameters())


def test_addresses_are_those_of_mmsegs_recipes() -> None:
    recipes = Path(mmseg.__file__).parent / '.mim' / 'configs'
    hub = Path(mmengine.__file__).parent / 'hub' / 'openmmlab.json'
    text = ''.join(
        path.read_text() for path in [*recipes.rglob('*/*.py'), hub]
    )
    for name, entry in ENCODERS.items():
        if str(entry.backbone['type']).startswith('mmseg.'):
            assert entry.weights in text, name
            assert not entry.requires
        else:
            assert entry.weights.startswith('https://huggingface.co/')
            assert entry.requires == 'transformers'
        assert entry.licence
