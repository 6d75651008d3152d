"""For each preset the original's own names and shapes load, at full size."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._device import DeviceContext

from upernet_ext.interop import Receipt
from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.models import VisionTransformer
from upernet_ext.models.backbones.vit_presets import PRESETS

from .conftest import transformers_model


class _Meta(DeviceContext):
    """``torch.device('meta')`` under which a linspace can still be read."""

    def __init__(self) -> None:
        super().__init__(torch.device('meta'))

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.linspace:  # timm reads its drop path rates from it
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


_WORDS = dict(t='tiny', s='small', b='base', l='large', h='huge', g='giant')
_WORDS |= {'s+': 'small_plus', 'h+': 'huge_plus', '7b': '7b'}


def timm_name(preset: str) -> str:
    """Name of timm's model of the same size."""
    family, size = re.match(r'(.+?)-([^-]+)$', preset).groups()
    if preset.startswith('visionfm'):
        family, size = 'visionfm', 'b'
    word = _WORDS[size]
    patch = PRESETS[preset].get('patch_size', 16)
    bias = '' if size == '7b' else '_qkvb'
    return {
        'deit': f'deit_{word}_patch16_224',
        'dinov2': f'vit_{word}_patch14_dinov2',
        'dinov2-reg': f'vit_{word}_patch14_reg4_dinov2',
        'dinov3': f'vit_{word}_patch16_dinov3{bias}',
        'retfound-dinov2': f'vit_{word}_patch14_dinov2',
        'beit': f'beit_{word}_patch16_224',
        'beitv2': f'beitv2_{word}_patch16_224',
        'eva02': f'eva02_{word}_patch14_224',
    }.get(family, f'vit_{word}_patch{patch}_224')


def assert_complete(
    ours: VisionTransformer, theirs: nn.Module, allowed: str
) -> Receipt:
    receipt = load_backbone(ours, theirs.state_dict(), source='original')
    assert set(receipt.matched) == set(ours.state_dict())
    assert not receipt.missing
    extra = [n for n in receipt.unused if not re.match(allowed, n)]
    assert not extra
    return receipt


@pytest.mark.needs_torchvision
@pytest.mark.parametrize('preset', PRESETS)
def test_names_and_shapes_of_timm(preset: str) -> None:
    import timm

    options = dict(num_classes=0)
    if preset.startswith('retfound-dinov2'):
        options['img_size'] = 224
    with _Meta():
        theirs = timm.create_model(timm_name(preset), **options)
        ours = VisionTransformer(preset)
    receipt = assert_complete(ours, theirs, r'norm\.|fc_norm\.')
    registers = preset.startswith('dinov2-reg')
    assert [c.name for c in receipt.changes] == ['pos_embed'] * registers
    # and what shapes do not show
    own, block = ours.blocks[0], theirs.blocks[0]
    assert own.attn.num_heads == block.attn.num_heads
    assert own.norm1.eps == block.norm1.eps
    if ours.rope is not None:
        assert ours.rope.base == theirs.rope.temperature
        assert ours.rope.interleaved != block.attn.rotate_half


@pytest.mark.parametrize(
    'preset', [p for p in PRESETS if not p.startswith('eva02')]
)
def test_names_and_shapes_of_transformers(preset: str) -> None:
    with torch.device('meta'):
        theirs = transformers_model(preset)
        ours = VisionTransformer(preset)
    receipt = assert_complete(
        ours, theirs, r'embeddings\.mask_token|pooler\.|layernorm\.'
    )
    assert not receipt.changes
