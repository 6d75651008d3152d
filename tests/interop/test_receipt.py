"""Loading weights completely, or not at all."""

import pytest
import torch
from torch import nn

from upernet_ext.interop import (
    Change,
    Receipt,
    WeightsError,
    load_pretrained,
    load_weights,
    published_name,
)


def _net() -> nn.Module:
    net = nn.Sequential()
    net.add_module('backbone', nn.Conv2d(2, 3, 1))
    net.add_module(
        'head', nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    )
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.normal_()
    return net


def _same(a: nn.Module, b: nn.Module) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(
            a.state_dict().values(), b.state_dict().values(), strict=True
        )
    )


def test_counts_what_was_loaded() -> None:
    source, net = _net(), _net()
    receipt = load_weights(net, source.state_dict(), source='a.pth')
    assert _same(net, source)
    assert receipt.parameters == {'backbone': 9, 'head': 33}
    assert len(receipt.matched) == 9
    assert '9 tensors, 42 values loaded from a.pth' in receipt.summary()
    assert receipt.to_dict()['parameters'] == {'backbone': 9, 'head': 33}


def _renamed(weights: dict) -> None:
    weights['backbone.wieght'] = weights.pop('backbone.weight')


def _reshaped(weights: dict) -> None:
    weights['head.0.weight'] = torch.zeros(4, 5, 1, 1)


def _prefixed(weights: dict) -> None:
    for name in list(weights):
        weights[f'model.{name}'] = weights.pop(name)


def _lacking(weights: dict) -> None:
    del weights['head.1.running_mean']


def _extra(weights: dict) -> None:
    weights['neck.weight'] = torch.zeros(1)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (
            _renamed,
            r'1 missing .* backbone.weight \(the file has backbone.wieght\)',
        ),
        (_reshaped, r'head.0.weight \(\(4, 5, 1, 1\) in the file, \(4, 3'),
        (_prefixed, r'8 missing .* 9 in it that the model lacks'),
        (_lacking, 'missing from it: head.1.running_mean'),
        (_extra, 'the model lacks: neck.weight'),
    ],
)
def test_what_does_not_match_is_named_and_nothing_is_loaded(
    damage, message: str
) -> None:
    net, untouched = _net(), _net()
    untouched.load_state_dict(net.state_dict())
    weights = _net().state_dict()
    damage(weights)
    with pytest.raises(WeightsError, match=message):
        load_weights(net, weights, source='a.pth')
    assert _same(net, untouched)


def test_declared_exceptions_are_in_the_receipt() -> None:
    weights = _net().state_dict()
    weights['classifier.weight'] = torch.zeros(1)
    del weights['head.1.num_batches_tracked']  # files of torch < 0.4.1
    del weights['head.0.bias']
    receipt = load_weights(
        _net(),
        weights,
        source='a.pth',
        ignored=('classifier.',),
        optional=('head.0.bias',),
    )
    assert receipt.unused == ('classifier.weight',)
    assert receipt.missing == ('head.0.bias',)
    assert 'not used by this model: classifier.weight' in receipt.summary()


@pytest.mark.parametrize(
    'prefix', ['', 'module.', 'backbone.', 'module.backbone.']
)
def test_pretrained_files_may_have_a_wrappers_prefix(tmp_path, prefix) -> None:
    source, net = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
    weights = {f'{prefix}{k}': v for k, v in source.state_dict().items()}
    if 'backbone' in prefix:
        weights['decode_head.x' if prefix == 'backbone.' else 'module.d.x'] = (
            torch.zeros(1)
        )
    else:
        weights[f'{prefix}fc.weight'] = torch.zeros(1)
    torch.save({'state_dict': weights}, tmp_path / 'a.pth')
    load_pretrained(net, str(tmp_path / 'a.pth'))
    assert _same(net, source)


def test_unknown_key_map_and_unknown_argument(tmp_path) -> None:
    torch.save(nn.Conv2d(2, 3, 1).state_dict(), tmp_path / 'a.pth')
    path = str(tmp_path / 'a.pth')
    net = nn.Conv2d(2, 3, 1)
    with pytest.raises(WeightsError, match="'nn' is not known; there are"):
        load_pretrained(net, dict(checkpoint=path, key_map='nn'))
    with pytest.raises(WeightsError, match='must be a path, a URL or dict'):
        load_pretrained(net, dict(checkpoint=path, prefix='backbone.'))


def test_receipt_is_stored_and_read_again() -> None:
    receipt = Receipt(
        'a.pth',
        ('b',),
        style='timm',
        renamed={'a': 'b'},
        changes=(
            Change('b', 'resized', (1, 2), (1, 3), 'another grid'),
            Change('c', 'set', None, (4,), 'the file has none'),
        ),
        unused=('d',),
        missing=('e',),
        parameters={'b': 3},
    )
    assert Receipt.from_dict(receipt.to_dict()) == receipt
    summary = receipt.summary()
    assert '3 values loaded from a.pth (timm names)' in summary
    assert '1 renamed: a -> b' in summary
    assert 'resized b: (1, 2) -> (1, 3) (another grid)' in summary
    assert 'set c: (4,) (the file has none)' in summary
    # What the first releases stored.
    old = dict(source='a.pth', matched=['b'], resized={'b': ([1, 2], [1, 3])})
    change = Receipt.from_dict(old).changes
    assert change == (Change('b', 'resized', (1, 2), (1, 3)),)


def _adapted() -> nn.Module:
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module('qkv', nn.Linear(3, 9))
    net.add_module('proj', nn.Linear(9, 3))
    config = LoraConfig(target_modules=['qkv'], init_lora_weights=False)
    return inject_adapter_in_model(config, net)


def test_published_files_load_into_an_adapted_network() -> None:
    net = _adapted()
    assert published_name('qkv.base_layer.weight') == 'qkv.weight'
    published = {
        'qkv.weight': torch.rand(9, 3),
        'qkv.bias': torch.rand(9),
        'proj.weight': torch.rand(3, 9),
        'proj.bias': torch.rand(3),
    }
    before = net.qkv.lora_A.default.weight.clone()
    receipt = load_weights(net, published, source='a.pth')
    assert set(receipt.matched) == set(published)
    assert torch.equal(net.qkv.base_layer.weight, published['qkv.weight'])
    assert torch.equal(net.qkv.lora_A.default.weight, before)
    del published['qkv.weight']
    with pytest.raises(WeightsError, match=r'missing from it: qkv\.weight'):
        load_weights(net, published, source='a.pth')


def test_an_adapter_in_a_file_is_not_dropped() -> None:
    weights = {k: v + 1 for k, v in _adapted().state_dict().items()}
    net = _adapted()
    load_weights(net, weights, source='a.pth')
    assert all(torch.equal(v, weights[k]) for k, v in net.state_dict().items())
    part = {k: v for k, v in weights.items() if 'lora_B' not in k}
    with pytest.raises(WeightsError, match=r'missing from it: qkv\.lora_B'):
        load_weights(net, part, source='a.pth')
    plain = nn.Sequential()
    plain.add_module('qkv', nn.Linear(3, 9))
    plain.add_module('proj', nn.Linear(9, 3))
    with pytest.raises(WeightsError, match=r'lacks: .*qkv\.lora_A'):
        load_weights(plain, weights, source='a.pth')
