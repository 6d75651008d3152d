import pytest
import torch
from mmengine.model import BaseModule
from torch import nn

from upernet_ext.models.tuning import (
    count_parameters,
    freeze,
    parameter_table,
)

DROPPING = dict(drop_path_rate=0.5)


def trained(module):
    return {n for n, p in module.named_parameters() if p.requires_grad}


def training(module):
    return {n for n, m in module.named_modules() if m.training}


def test_all_is_frozen_and_evaluated(make_model, image):
    model = make_model(dict(type='freeze', what='all'), DROPPING)
    model.train()
    assert not trained(model.backbone)
    assert not training(model.backbone)
    # Nothing is dropped.
    first, second = model.backbone(image), model.backbone(image)
    assert torch.equal(first[3], second[3])
    for part in (model.neck, model.decode_head):
        assert part.training
        assert trained(part) == {n for n, _ in part.named_parameters()}
    model.eval()
    assert not training(model)


def test_norms_alone_are_trained(make_model):
    model = make_model(dict(type='freeze', what='all_but_norms'), DROPPING)
    model.train()
    norms = {f'blocks.{i}.norm{k}' for i in range(4) for k in (1, 2)}
    assert trained(model.backbone) == {
        f'{n}.{kind}' for n in norms for kind in ('weight', 'bias')
    }
    holders = {'', 'blocks', *(f'blocks.{i}' for i in range(4))}
    assert training(model.backbone) == norms | holders


@pytest.mark.parametrize('count', [0, 1, 3])
def test_embeddings_and_first_blocks_are_frozen(make_model, count):
    model = make_model(dict(type='freeze', what=count), DROPPING)
    model.train()
    frozen = {'cls_token', 'pos_embed', 'patch_embed'}
    names = {n for n, _ in model.backbone.named_parameters()}
    expected = {
        n
        for n in names
        if n.split('.')[0] not in frozen
        and not n.startswith(tuple(f'blocks.{i}.' for i in range(count)))
    }
    assert trained(model.backbone) == expected
    modes = {i: training(block) for i, block in enumerate_blocks(model)}
    for i, block in enumerate_blocks(model):
        everything = {n for n, _ in block.named_modules()}
        # Stochastic depth, which has no parameters, among them.
        assert 'drop_path' in everything
        assert modes[i] == (set() if i < count else everything)
    assert not training(model.backbone.patch_embed)


def enumerate_blocks(model):
    return enumerate(model.backbone.blocks)


def test_first_blocks_of_other_libraries_are_frozen(make_backbone, image):
    backbone = make_backbone()
    parts = freeze(backbone, what=2)
    marks = [f'.{i}.' for i in range(4)]
    blocks = {
        i: [p for n, p in backbone.named_parameters() if marks[i] in n]
        for i in range(4)
    }
    assert all(blocks.values())
    for i, parameters in blocks.items():
        assert {p.requires_grad for p in parameters} == {i >= 2}
    embeddings = [p for n, p in backbone.named_parameters() if 'embed' in n]
    assert embeddings
    assert not any(p.requires_grad for p in embeddings)
    assert parts
    sum(m.sum() for m in backbone(image)).backward()
    assert all(p.grad is None for p in blocks[1])
    assert all(p.grad is not None for p in blocks[2])


def test_statistics_behind_frozen_weights_stay():
    class Net(nn.Sequential):
        def get_layer_depth(self, name):
            return int(name.split('.')[0]), 4

    def layer():
        return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

    net = Net(layer(), layer(), layer())
    kept = freeze(net, what=1)
    for module in kept:
        module.eval()
    net(torch.randn(8, 3))
    assert not net[0][1].running_mean.any()
    assert not net[1][1].running_mean.any()
    assert net[2][1].running_mean.any()


@pytest.mark.parametrize('what', ['some', True, 5, -1, 1.0])
def test_other_parts_are_refused(make_model, what):
    with pytest.raises(ValueError, match=r'tuning\.what'):
        make_model(dict(type='freeze', what=what))


def test_a_backbone_without_depth_is_refused():
    with pytest.raises(ValueError, match='get_layer_depth'):
        freeze(nn.Sequential(nn.Linear(2, 2)), what=1)


def test_the_table_adds_up():
    counts = dict(
        backbone=count_parameters([nn.Linear(9, 9).requires_grad_(False)]),
        head=count_parameters([nn.Linear(9, 1)]),
    )
    table = parameter_table(counts).splitlines()
    assert table[1].split() == ['backbone', '0', '90', '0.00%']
    assert table[2].split() == ['head', '10', '10', '100.00%']
    assert table[3].split() == ['total', '10', '100', '10.00%']


def test_shared_parameters_count_once():
    layer = nn.Linear(3, 3)
    assert count_parameters([layer, nn.Sequential(layer)]) == (12, 12)


def test_a_frozen_model_is_still_initialised(make_model):
    """Frozen from random weights, it is at least the declared random."""
    model = make_model(dict(type='freeze', what='all'))
    assert isinstance(model.backbone, BaseModule)
    before = model.backbone.blocks[0].attn.qkv.weight.clone()
    model.init_weights()
    after = model.backbone.blocks[0].attn.qkv.weight
    assert not torch.equal(after, before)
    assert after.std() == pytest.approx(0.02, rel=0.15)
