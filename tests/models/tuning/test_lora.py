import math

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from upernet_ext.interop import WeightsError, load_pretrained, published_name
from upernet_ext.models.tuning import (
    add_lora,
    apply_tuning,
    count_parameters,
    disable_lora,
    enable_lora,
    merge_lora,
)

# What mmseg's own backbones and torch's tracer warn of.
pytestmark = pytest.mark.filterwarnings('ignore:torch.meshgrid')
LORA = dict(type='lora', rank=2, alpha=6.0, dropout=0.0)


def move_adapters(module):
    """Give every B a value, so that the adapters do something."""
    for name, parameter in module.named_parameters():
        if 'lora_B' in name:
            nn.init.normal_(parameter, std=0.5)


def outputs(backbone, image):
    with torch.no_grad():
        return torch.stack(list(backbone.eval()(image)))


def test_an_adapter_adds_its_product_to_q_k_and_v(make_backbone, image):
    plain = make_backbone()
    adapted = make_backbone()
    adapted.load_state_dict(plain.state_dict())
    add_lora(adapted, rank=2, alpha=6.0, dropout=0.5)
    assert torch.equal(outputs(adapted, image), outputs(plain, image))
    move_adapters(adapted)
    layers = dict(adapted.named_modules())
    weights = dict(plain.named_parameters())
    for name in list(weights):
        parent = name.removesuffix('.weight')
        layer = layers.get(parent)
        if hasattr(layer, 'lora_A'):
            a, b = layer.lora_A.default.weight, layer.lora_B.default.weight
            assert a.shape[0] == 2
            weights[name].data += 6.0 / 2 * b @ a
    expected = outputs(plain, image)
    torch.testing.assert_close(outputs(adapted, image), expected)

    disable_lora(adapted)
    assert (outputs(adapted, image) - expected).abs().max() > 1e-3
    assert not trained(adapted)
    enable_lora(adapted)
    assert trained(adapted)
    names = {published_name(n) for n in adapted.state_dict()}
    merge_lora(adapted)
    # Merged equals unmerged, with the names of the network alone.
    torch.testing.assert_close(
        outputs(adapted, image), expected, rtol=1e-6, atol=1e-6
    )
    assert list(adapted.state_dict()) == list(plain.state_dict())
    assert set(adapted.state_dict()) < names
    assert not trained(adapted)
    assert not hasattr(adapted, 'peft_config')


def trained(module):
    return [n for n, p in module.named_parameters() if p.requires_grad]


def test_every_block_has_an_adapter_and_nothing_else_is_trained(make_backbone):
    backbone = make_backbone()
    total = count_parameters([backbone])[1]
    add_lora(backbone, rank=2)
    names = trained(backbone)
    assert all('.lora_A.' in n or '.lora_B.' in n for n in names)
    joined = any('.qkv.' in name for name in names)
    per_block = 1 if joined else 3
    layers = {n.split('.lora_')[0] for n in names}
    assert len(names) == 2 * len(layers)
    assert len(layers) == 4 * per_block
    added = count_parameters([backbone])
    assert added[0] == added[1] - total > 0


def test_unknown_targets_are_refused_with_the_names_there_are(make_backbone):
    with pytest.raises(
        ValueError, match=r"'nope' matches no linear.*'(down_proj|fc1)'"
    ):
        add_lora(make_backbone(), targets=['nope'])


def test_targets_are_linear_layers_only(make_model):
    model = make_model(dict(LORA, targets=['proj', 'mlp.fc1']))
    layers = {n.split('.lora_')[0] for n in trained(model.backbone)}
    # The patch projection, a convolution of the same name, is none of them.
    parts = ('attn.proj', 'mlp.fc1')
    assert layers == {f'blocks.{i}.{p}' for i in range(4) for p in parts}


@pytest.mark.parametrize(
    ('tuning', 'message'),
    [
        (dict(type='lara'), r"\['freeze', 'lora'\], got 'lara'"),
        (dict(LORA, r=4), r"no option \['r'\].*'targets', 'rank'"),
        (dict(LORA, rank=0), 'got rank=0'),
        (dict(LORA, dropout=1.0), 'dropout=1.0'),
        (dict(LORA, targets='qkv'), r"write \['qkv'\]"),
        (dict(LORA, targets=[]), 'needs targets'),
    ],
)
def test_wrong_options_are_refused(make_model, tuning, message):
    with pytest.raises(ValueError, match=message):
        make_model(tuning)


def test_a_second_adapter_is_refused(make_model):
    model = make_model(LORA)
    with pytest.raises(ValueError, match='has adapters; merge'):
        model.tune(LORA)
    model.merge_lora()
    with pytest.raises(ValueError, match='has no adapters'):
        model.merge_lora()


def test_heads_and_neck_are_trained_beside_the_adapters(make_model):
    model = make_model(
        LORA, auxiliary_head=dict(type='upernet_ext.FCNHead', channels=8)
    )
    for part in (model.neck, model.decode_head, model.auxiliary_head):
        trained, total = count_parameters([part])
        assert trained == total > 0


def test_published_weights_load_into_an_adapted_model(make_model, tmp_path):
    donor = make_model(None).backbone
    donor.init_weights()
    torch.save(donor.state_dict(), tmp_path / 'vit.pth')
    model = make_model(LORA, dict(pretrained=str(tmp_path / 'vit.pth')))
    model.init_weights()
    # B is 0 again although all linear layers were initialised.
    for name, value in model.backbone.state_dict().items():
        if 'lora_B' in name:
            assert not value.any()
        elif 'lora_A' in name:
            assert 0 < value.abs().max() <= 1 / math.sqrt(16)
        else:
            assert torch.equal(value, donor.state_dict()[published_name(name)])
    assert len(model.receipt.matched) == len(donor.state_dict())

    wrong = donor.state_dict()
    wrong['blocks.0.attn.qkw.weight'] = wrong.pop('blocks.0.attn.qkv.weight')
    torch.save(wrong, tmp_path / 'wrong.pth')
    with pytest.raises(
        WeightsError,
        match=r'blocks\.0\.attn\.qkv\.weight.*blocks\.0\.attn\.qkw\.weight',
    ):
        load_pretrained(model.backbone, str(tmp_path / 'wrong.pth'))


def test_gradients_reach_the_adapters_through_checkpoints(
    make_backbone, image
):
    """The image has no gradient, and neither have the frozen embeddings."""
    gradients = {}
    state = None
    for checkpointed in (False, True):
        backbone = make_backbone(gradient_checkpointing=checkpointed)
        torch.manual_seed(3)
        add_lora(backbone, rank=2, dropout=0.0)
        move_adapters(backbone)
        state = state or backbone.state_dict()
        backbone.load_state_dict(state)
        backbone.train()
        sum(m.square().sum() for m in backbone(image)).backward()
        gradients[checkpointed] = {
            n: p.grad for n, p in backbone.named_parameters() if 'lora' in n
        }
        frozen = [p.grad for p in backbone.parameters() if not p.requires_grad]
        assert frozen
        assert all(grad is None for grad in frozen)
    assert all(grad.any() for grad in gradients[False].values())
    torch.testing.assert_close(gradients[True], gradients[False])


def test_adapters_have_the_learning_rate_of_their_depth(make_backbone):
    class Segmentor(nn.Module):
        def __init__(self, backbone):
            super().__init__()
            self.backbone = backbone
            self.head = nn.Linear(2, 2)

    model = Segmentor(make_backbone())
    apply_tuning(model.backbone, LORA)
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
            constructor='upernet_ext.LayerDecayConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.5),
        ),
    )
    rates = {
        name: group['lr']
        for group in wrapper.optimizer.param_groups
        for name in group['param_names']
    }
    assert set(rates) == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    adapters = sorted(
        {rate for n, rate in rates.items() if 'lora_' in n}, reverse=True
    )
    assert adapters == [0.5 ** (i + 1) for i in range(4)]
    assert rates['head.weight'] == 1.0


def test_an_adapted_model_is_built_on_the_meta_device(make_model):
    with torch.device('meta'):
        model = make_model(LORA)
    assert all(p.is_meta for p in model.parameters())


def test_a_saved_model_comes_back_adapted_and_merged(
    make_model, image, tmp_path
):
    model = make_model(LORA)
    model.init_weights()
    move_adapters(model)
    model.eval()
    with torch.no_grad():
        expected = model(image)
        model.save_pretrained(tmp_path / 'adapted')
        again = type(model).from_pretrained(tmp_path / 'adapted')
        assert torch.equal(again(image), expected)
        assert trained(again.backbone) == trained(model.backbone)
        again.merge_lora()
        again.save_pretrained(tmp_path / 'merged')
        merged = type(model).from_pretrained(tmp_path / 'merged')
        torch.testing.assert_close(
            merged(image), expected, rtol=1e-6, atol=1e-6
        )
    assert not [n for n in merged.state_dict() if 'lora' in n]


def test_batch_statistics_of_frozen_weights_stay():
    net = nn.Sequential()
    net.add_module('qkv', nn.Linear(2, 2))
    net.add_module('bn', nn.BatchNorm1d(2))
    assert add_lora(net) == [net.bn]
    assert not net.bn.weight.requires_grad
