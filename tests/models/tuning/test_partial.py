import torch

from upernet_ext.models.tuning.partial import digest

WEIGHTS = {'a.weight': torch.arange(6.0).reshape(2, 3), 'b': torch.ones(2)}


def sha256(**changes):
    weights = {**WEIGHTS, **changes}
    return digest(weights, weights)


def test_a_digest_tells_values_names_types_and_shapes():
    weight = WEIGHTS['a.weight']
    renamed = {'c': WEIGHTS['b'], 'a.weight': weight}
    nearly = weight + 0.0
    nearly[1, 2] = torch.nextafter(nearly[1, 2], torch.tensor(9.0))
    others = [
        sha256(),
        sha256(**{'a.weight': nearly}),
        sha256(**{'a.weight': weight.reshape(3, 2)}),
        sha256(b=torch.ones(2).view(torch.int32)),
        digest(renamed, renamed),
        digest(WEIGHTS, ['b']),
    ]
    assert len(set(others)) == len(others)


def test_a_digest_knows_weights_under_an_adapter_and_in_any_order():
    adapted = {
        'b': WEIGHTS['b'],
        'a.base_layer.weight': WEIGHTS['a.weight'].mT.contiguous().mT,
    }
    assert digest(adapted, adapted) == sha256()


def test_a_digest_takes_low_precision():
    half = {'a': torch.ones(3, dtype=torch.bfloat16)}
    assert digest(half, half) != digest({'a': torch.ones(3)}, ['a'])
