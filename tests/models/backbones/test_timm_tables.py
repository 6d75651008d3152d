"""The tables of the CNNs against timm's own: every arch, and its weights."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from upernet_ext.models.backbones import build_backbone
from upernet_ext.models.backbones.convnext_presets import ENCODERS as CONVNEXT
from upernet_ext.models.backbones.densenet import ENCODERS as DENSENET
from upernet_ext.models.backbones.efficientnet_presets import (
    ENCODERS as EFFICIENTNET,
)
from upernet_ext.models.backbones.regnet import ENCODERS as REGNET
from upernet_ext.models.backbones.resnet import ENCODERS as RESNET
from upernet_ext.models.backbones.resnetv2 import ENCODERS as RESNETV2

ENCODERS = {
    **CONVNEXT,
    **DENSENET,
    **EFFICIENTNET,
    **REGNET,
    **RESNET,
    **RESNETV2,
}
PUBLISHED = {name: entry for name, entry in ENCODERS.items() if entry.weights}
# What a backbone leaves out of timm's classifiers.
CLASSIFIER = ('head.', 'fc.', 'classifier.', 'conv_head.', 'bn2.')

pytestmark = [
    pytest.mark.needs_torchvision,
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
]


class _RealNumbers(TorchFunctionMode):
    """Keep the rates and widths that timm computes off meta."""

    def __torch_function__(
        self,
        func: Callable,
        types: object,
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> object:
        kwargs = dict(kwargs or {})
        if func in (torch.linspace, torch.arange, torch.tensor):
            kwargs['device'] = 'cpu'
        return func(*args, **kwargs)


def _timm_name(weights: str) -> str:
    found = re.fullmatch(
        r'https://huggingface\.co/timm/(.+)/resolve/main/model\.safetensors',
        weights,
    )
    return found[1]


def _pads_as_tensorflow(net: nn.Module) -> bool:
    return any('Same' in type(module).__name__ for module in net.modules())


@pytest.mark.parametrize('name', PUBLISHED)
def test_names_shapes_and_statistics_are_timms(name: str) -> None:
    import timm

    entry = PUBLISHED[name]
    with torch.device('meta'), _RealNumbers():
        theirs = timm.create_model(_timm_name(entry.weights))
        ours, _ = build_backbone(entry.backbone, in_channels=3, spatial_dims=2)
    shapes = {k: v.shape for k, v in ours.state_dict().items()}
    wanted = {
        k: v.shape
        for k, v in theirs.state_dict().items()
        if not k.startswith(CLASSIFIER)
    }
    assert shapes == wanted
    eps = {n: m.eps for n, m in ours.named_modules() if hasattr(m, 'eps')}
    named = dict(theirs.named_modules())
    for module, value in eps.items():
        assert getattr(named[module], 'eps', value) == value, module
    assert _pads_as_tensorflow(ours) == _pads_as_tensorflow(theirs)


@pytest.mark.parametrize('name', PUBLISHED)
def test_entry_agrees_with_timms_card(name: str) -> None:
    import timm

    entry = PUBLISHED[name]
    tag = _timm_name(entry.weights)
    card = timm.models.get_pretrained_cfg(tag)
    assert card.hf_hub_id == f'timm/{tag}'
    assert entry.mean == pytest.approx([255 * m for m in card.mean])
    assert entry.std == pytest.approx([255 * s for s in card.std])
    # Where a card says none, timm publishes under Apache-2.0 (_hub.py).
    assert entry.licence.lower() == (card.license or 'apache-2.0').lower()


def test_networks_without_weights_say_so() -> None:
    without = ENCODERS.keys() - PUBLISHED.keys()
    assert without == {
        *('convnext_v2_small', 'densenet264', 'resnet152v2'),
        *('seresnet18', 'seresnet34', 'seresnet101', 'seresnet152'),
    }
    for name in without:
        assert not ENCODERS[name].licence
        with torch.device('meta'):
            build_backbone(
                ENCODERS[name].backbone, in_channels=3, spatial_dims=3
            )
