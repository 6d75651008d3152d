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
    import timm

    with torch.device('meta'), _RealNumbers():
        theirs = timm.create_model(TIMM[name])
    assert _size(_build(name)) == _size(theirs)


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
