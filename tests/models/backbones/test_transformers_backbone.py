"""Networks of transformers through the door."""

import pytest
import torch
import transformers
from torch import nn

from upernet_ext.interop import WeightsError, load_pretrained
from upernet_ext.models import TransformersBackbone
from upernet_ext.models.backbones import backbone_levels

STAGES = dict(depths=[1, 1, 1, 1])
SWIN = dict(STAGES, embed_dim=8, num_heads=[1, 1, 2, 2], window_size=2)
VIT = dict(
    hidden_size=16,
    num_hidden_layers=8,
    num_attention_heads=2,
    intermediate_size=32,
    image_size=64,
    patch_size=16,
)
WIDTHS = dict(STAGES, hidden_sizes=[8, 16, 24, 32])
PVT = dict(WIDTHS, num_attention_heads=[1, 2, 4, 8])
# type: (configuration, class of a published file, widths, strides)
NETWORKS = {
    'swin': (SWIN, 'Swin', (8, 16, 32, 64), (4, 8, 16, 32)),
    'swinv2': (SWIN, 'Swinv2', (8, 16, 32, 64), (4, 8, 16, 32)),
    'convnextv2': (WIDTHS, 'ConvNextV2', (8, 16, 24, 32), (4, 8, 16, 32)),
    'resnet': (
        dict(WIDTHS, embedding_size=8),
        'ResNet',
        (8, 16, 24, 32),
        (4, 8, 16, 32),
    ),
    'pvt_v2': (PVT, 'PvtV2', (8, 16, 24, 32), (4, 8, 16, 32)),
    'segformer': (PVT, 'Segformer', (8, 16, 24, 32), (4, 8, 16, 32)),
    'regnet': (
        dict(WIDTHS, embedding_size=8, groups_width=8),
        'RegNet',
        (8, 16, 24, 32),
        (4, 8, 16, 32),
    ),
    'dinov2': (VIT, 'Dinov2', (16,) * 4, (16,) * 4),
    'beit': (VIT, 'Beit', (16,) * 4, (16,) * 4),
}
networks = pytest.mark.parametrize('kind', NETWORKS)


def _randomise(net: nn.Module) -> nn.Module:
    for name, value in net.state_dict().items():
        if 'running_var' in name:
            value.uniform_(0.5, 2)
        elif value.is_floating_point() and value.any():
            value.normal_(std=0.1)
    return net.eval()


def _classifier(kind: str) -> nn.Module:
    arguments, name, *_ = NETWORKS[kind]
    config = transformers.CONFIG_MAPPING[kind](**arguments)
    cls = getattr(transformers, f'{name}ForImageClassification')
    return _randomise(cls(config))


@networks
def test_levels_without_out_indices(kind: str) -> None:
    arguments, _, widths, strides = NETWORKS[kind]
    net = TransformersBackbone(kind, arguments)
    levels = backbone_levels(net, in_channels=3, spatial_dims=2)
    assert levels.channels == widths
    assert levels.strides == tuple((s, s) for s in strides)
    assert hasattr(net, 'patch_size') == (kind in ('dinov2', 'beit'))


@networks
@torch.no_grad()
def test_a_published_classifier_loads(kind: str, tmp_path) -> None:
    theirs = _classifier(kind)
    torch.save(theirs.state_dict(), tmp_path / 'weights.pth')
    ours = TransformersBackbone(kind, NETWORKS[kind][0]).eval()
    receipt = load_pretrained(ours, str(tmp_path / 'weights.pth'))
    norms = [k for k in ours.state_dict() if 'hidden_states_norms' in k]
    own = {k for k in ours.state_dict() if 'num_batches' not in k}
    assert own - set(norms) <= set(receipt.matched)
    x = torch.randn(1, 3, 64, 64)
    states = theirs(x, output_hidden_states=True).hidden_states
    last = ours(x)[-1]
    state = states[-1]
    if state.ndim == 3:
        prefix = state.shape[1] - last[0, 0].numel()
        state = state[:, prefix:].transpose(1, 2).reshape(last.shape)
    if norms or kind == 'dinov2':
        # A norm a level, new or the final one: compare what it normalises.
        norm = [m for n, m in ours.named_modules() if 'norms.stage4' in n]
        norm = norm[0] if norm else ours.model.layernorm
        state = state.movedim(1, -1)
        state = nn.LayerNorm.forward(norm, state).movedim(-1, 1)
    torch.testing.assert_close(last, state, rtol=1e-5, atol=1e-5)


@networks
def test_a_renamed_tensor_is_named(kind: str, tmp_path) -> None:
    weights = _classifier(kind).state_dict()
    wanted = TransformersBackbone(kind, NETWORKS[kind][0])
    victim = [k for k, v in weights.items() if v.ndim > 1][2]
    weights[f'{victim}_'] = weights.pop(victim)
    torch.save(weights, tmp_path / 'weights.pth')
    with pytest.raises(WeightsError) as error:
        load_pretrained(wanted, str(tmp_path / 'weights.pth'))
    assert victim.split('.', 1)[1] in str(error.value)


# What version 4 wrote for the names of version 5.
VERSION_4 = {
    'swin': {
        'attention.q_proj': 'attention.self.query',
        'attention.k_proj': 'attention.self.key',
        'attention.v_proj': 'attention.self.value',
        'attention.relative_position_bias.': 'attention.self.',
        'attention.o_proj': 'attention.output.dense',
        'mlp.fc1': 'intermediate.dense',
        'mlp.fc2': 'output.dense',
    },
    'swinv2': {},
    'dinov2': {
        'attention.q_proj': 'attention.attention.query',
        'attention.k_proj': 'attention.attention.key',
        'attention.v_proj': 'attention.attention.value',
        'attention.o_proj': 'attention.output.dense',
    },
    'segformer': {
        'stages.0.patch_embeddings': 'encoder.patch_embeddings.0',
        'stages.0.blocks': 'encoder.block.0',
        'stages.0.layer_norm': 'encoder.layer_norm.0',
        'attention.q_proj': 'attention.self.query',
        'attention.sequence_reduction.sequence_reduction': (
            'attention.self.sr'
        ),
        'attention.sequence_reduction.': 'attention.self.',
        'mlp.fc1': 'mlp.dense1',
        'layernorm_before': 'layer_norm_1',
    },
}


@pytest.mark.parametrize('kind', VERSION_4)
def test_files_of_version_4_load(kind: str, tmp_path) -> None:
    theirs = _classifier(kind)
    # Version 4 also wrote the tables that are computed.
    tensors = {**dict(theirs.named_buffers()), **theirs.state_dict()}
    weights = {}
    for name, value in tensors.items():
        for new, old in VERSION_4[kind].items():
            name = name.replace(new, old)
        weights[name] = value
    results = []
    for i, file in enumerate([theirs.state_dict(), weights]):
        torch.save(file, tmp_path / f'{i}.pth')
        ours = TransformersBackbone(kind, NETWORKS[kind][0])
        load_pretrained(ours, str(tmp_path / f'{i}.pth'))
        results.append(ours.state_dict())
    for name, value in results[0].items():
        if 'hidden_states_norms' not in name:
            assert torch.equal(results[1][name], value), name


def test_depth_of_a_swin_is_a_layer_a_block() -> None:
    net = TransformersBackbone('swin', dict(SWIN, depths=[1, 2, 1, 1]))
    depths = {n: net.get_layer_depth(n) for n, _ in net.named_parameters()}
    assert {total for _, total in depths.values()} == {7}
    found = {
        part: {d for n, (d, _) in depths.items() if part in n}
        for part in (
            '.embeddings.',
            'layers.0.blocks.0.',
            'layers.0.downsample.',
            'layers.1.blocks.1.',
            'layers.3.blocks.0.',
            'hidden_states_norms',
        )
    }
    assert list(found.values()) == [{0}, {1}, {1}, {3}, {5}, {6}]


@pytest.mark.parametrize('kind', ['dinov2', 'beit'])
def test_depth_of_a_vit_is_a_layer_a_block(kind: str) -> None:
    net = TransformersBackbone(kind, VIT)
    depths = {n: net.get_layer_depth(n)[0] for n, _ in net.named_parameters()}
    assert {d for n, d in depths.items() if 'embeddings' in n} == {0}
    for i in range(8):
        found = {d for n, d in depths.items() if f'layer.{i}.' in n} or {
            d for n, d in depths.items() if f'layers.{i}.' in n
        }
        assert found == {i + 1}
    assert net.get_layer_depth('model.layernorm.weight') == (9, 10)


def test_depth_of_another_type_is_not_guessed() -> None:
    net = TransformersBackbone('pvt_v2', PVT)
    with pytest.raises(ValueError, match='pvt_v2 is not known'):
        net.get_layer_depth('model.x')


def test_checkpointing_changes_no_gradient() -> None:
    config = dict(SWIN, hidden_dropout_prob=0.0, drop_path_rate=0.0)
    nets = [
        TransformersBackbone(
            'swinv2', config, in_channels=5, gradient_checkpointing=on
        ).train()
        for on in (False, True)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(1, 5, 64, 64, requires_grad=True)
    for net in nets:
        sum(level.square().mean() for level in net(x)).backward()
    first, second = (dict(net.named_parameters()) for net in nets)
    for name, parameter in first.items():
        torch.testing.assert_close(parameter.grad, second[name].grad)
    with pytest.raises(ValueError, match='does not support'):
        TransformersBackbone('convnextv2', WIDTHS, gradient_checkpointing=True)
