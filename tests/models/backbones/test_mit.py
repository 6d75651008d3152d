"""MiT against mmseg and transformers, in 2D and 3D."""

from pathlib import Path

import mmseg
import pytest
import torch
import transformers
from mmseg.models import MixVisionTransformer
from torch import Tensor, nn

from upernet_ext.interop import WeightsError
from upernet_ext.interop.mit import STYLES, to_mmseg
from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.models import MiT
from upernet_ext.models.backbones import build_backbone
from upernet_ext.models.backbones.mit import ARCHITECTURES, ENCODERS

DEPTHS, DIMS = (1, 2, 2, 1), (8, 16, 40, 64)
# No edge of a map is a multiple of the reduction of its keys.
SIZE = (150, 214)
both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])


def _randomise(net: nn.Module) -> nn.Module:
    for value in net.state_dict().values():
        value.normal_(std=0.5 if value.ndim < 2 else value[0].numel() ** -0.5)
    return net.eval()


def _small(**kwargs) -> MiT:
    return MiT(depths=DEPTHS, projection_dims=DIMS, **kwargs)


def _theirs(library: str) -> nn.Module:
    if library == 'mmseg':
        return MixVisionTransformer(
            embed_dims=8, num_layers=DEPTHS, num_heads=[1, 2, 5, 8]
        )
    config = transformers.SegformerConfig(
        depths=list(DEPTHS), hidden_sizes=list(DIMS)
    )
    return transformers.SegformerModel(config)


def _maps(net: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    if isinstance(net, MixVisionTransformer):
        return net(x)
    return net(x, output_hidden_states=True).hidden_states


@pytest.mark.parametrize('library', ['mmseg', 'transformers'])
@torch.no_grad()
def test_every_level_is_theirs(library: str) -> None:
    theirs = _randomise(_theirs(library))
    ours = _small().eval()
    receipt = load_backbone(ours, theirs.state_dict(), source=library)
    assert receipt.style == library
    assert not receipt.unused
    x = torch.randn(2, 3, *SIZE)
    # The authors add 1e-5 to the variance of patches and keys and 1e-6 to
    # others; mmseg 1e-6 and transformers 1e-5 to all.
    for net in (ours, theirs):
        for module in net.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-6
    for mine, yours in zip(ours(x), _maps(theirs, x), strict=True):
        torch.testing.assert_close(mine, yours, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_as_many_parameters_as_transformers(arch: str) -> None:
    width, depths, _ = ARCHITECTURES[arch]
    config = transformers.SegformerConfig(
        depths=list(depths),
        hidden_sizes=[width * heads for heads in (1, 2, 5, 8)],
    )
    with torch.device('meta'):
        theirs = transformers.SegformerModel(config)
        ours = MiT(arch)
    sizes = [sum(p.numel() for p in n.parameters()) for n in (ours, theirs)]
    assert sizes[0] == sizes[1]


def test_addresses_are_those_of_mmsegs_recipes() -> None:
    recipes = Path(mmseg.__file__).parent / '.mim' / 'configs' / 'segformer'
    text = ''.join(path.read_text() for path in recipes.glob('*.py'))
    for entry in ENCODERS.values():
        assert entry.weights in text


@pytest.mark.parametrize('slices', [40, 9, 1])
@torch.no_grad()
def test_a_volume_of_equal_slices_gives_the_maps_of_one(slices: int) -> None:
    flat = _randomise(_small())
    deep = _small(spatial_dims=3).eval()
    receipt = load_backbone(deep, flat.state_dict(), source='2D')
    assert len(receipt.matched) == len(flat.state_dict())
    x = torch.randn(1, 3, 70, 102)
    volume = x[:, :, None].expand(-1, -1, slices, -1, -1)
    for mine, yours in zip(deep(volume), flat(x), strict=True):
        wanted = yours[:, :, None].expand_as(mine)
        assert (mine - wanted).abs().max() <= 1e-4 * yours.std()


@torch.no_grad()
def test_thick_slices_have_strides_of_their_own() -> None:
    flat = _randomise(_small())
    halvings = ((1, 2, 2), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
    deep, _ = build_backbone(
        dict(
            type='upernet_ext.MiT',
            depths=DEPTHS,
            projection_dims=DIMS,
            halvings=halvings,
        ),
        in_channels=3,
        spatial_dims=3,
    )
    assert deep.out_strides == ((1, 4, 4), (2, 8, 8), (4, 16, 16), (4, 32, 32))
    # The keys lie as far apart as the last stage's tokens.
    assert deep.block1[0].attn.sr.stride == (4, 8, 8)
    load_backbone(deep.eval(), flat.state_dict(), source='2D')
    x = torch.randn(1, 3, 64, 96)
    volume = x[:, :, None].expand(-1, -1, 10, -1, -1)
    for mine, yours in zip(deep(volume), flat(x), strict=True):
        wanted = yours[:, :, None].expand_as(mine)
        assert (mine - wanted).abs().max() <= 1e-4 * yours.std()


@both_ranks
def test_checkpointing_changes_no_gradient(spatial_dims: int) -> None:
    nets = [
        _small(
            in_channels=1,
            spatial_dims=spatial_dims,
            gradient_checkpointing=on,
        )
        for on in (False, True)
    ]
    _randomise(nets[0])
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(1, 1, *[64] * spatial_dims)
    for net in nets:
        net.train()
        sum(m.square().mean() for m in net(x)).backward()
    first, second = (dict(net.named_parameters()) for net in nets)
    for name, parameter in first.items():
        assert parameter.grad.any(), name
        torch.testing.assert_close(parameter.grad, second[name].grad)


@torch.no_grad()
def test_stages_behind_the_last_level_are_not_built() -> None:
    whole = _randomise(_small())
    part = _small(out_indices=(0, 2)).eval()
    assert part.out_channels == (8, 40)
    assert part.out_strides == ((4, 4), (16, 16))
    receipt = load_backbone(part, whole.state_dict(), source='whole')
    behind = {name.split('.')[0] for name in receipt.unused}
    assert behind == {'patch_embed4', 'block4', 'norm4'}
    x = torch.randn(1, 3, 64, 96)
    maps = whole(x)
    for mine, yours in zip(part(x), (maps[0], maps[2]), strict=True):
        assert torch.equal(mine, yours)


def test_depth_is_a_layer_a_block() -> None:
    net = _small()
    depths = {n: net.get_layer_depth(n) for n, _ in net.named_parameters()}
    assert {total for _, total in depths.values()} == {8}
    order = [depth for depth, _ in depths.values()]
    assert sorted(order) == order
    assert depths['patch_embed1.norm.bias'][0] == 0
    assert depths['block1.0.norm1.bias'][0] == 1
    assert depths['norm1.bias'][0] == depths['patch_embed2.proj.bias'][0] == 1
    assert depths['block3.1.attn.q.weight'][0] == 5
    assert depths['norm4.weight'][0] == 6


def test_drop_path_rises_linearly() -> None:
    net = _small(drop_path_rate=0.25)
    rates = [
        getattr(block.drop_path, 'drop_prob', 0.0)
        for i in range(1, 5)
        for block in net.get_submodule(f'block{i}')
    ]
    assert rates == pytest.approx([0.05 * i for i in range(6)])


def test_initialisation() -> None:
    net = MiT('mit_b0')
    net.init_weights()
    for name, value in net.named_parameters():
        if name.endswith('.bias'):
            assert not value.any(), name
        elif value.ndim == 2:
            assert value.std().item() == pytest.approx(0.02, rel=0.1), name
    # He's: 2 over the outputs that an input reaches.
    conv = net.patch_embed1.proj.weight
    assert conv.std().item() == pytest.approx((2 / (49 * 32)) ** 0.5, rel=0.1)
    conv = net.block4[0].mlp.dwconv.dwconv.weight
    assert conv.std().item() == pytest.approx((2 / 9) ** 0.5, rel=0.1)


@pytest.mark.parametrize('style', STYLES, ids=lambda style: style.name)
@torch.no_grad()
def test_a_file_of_any_style_is_read_back(style) -> None:
    published = _randomise(_small())
    file = style.to_style(published.state_dict())
    assert [s.name for s in STYLES if s.recognises(file)] == [style.name]
    net = _small()
    receipt = load_backbone(net, file, source='file')
    assert receipt.style == ('' if style.name == 'official' else style.name)
    for name, value in published.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name
    victim = next(k for k, v in file.items() if v.ndim > 2)
    file[f'{victim}_'] = file.pop(victim)
    with pytest.raises(WeightsError, match=f'the file has {victim}_'):
        load_backbone(_small(), file, source='file')


# What version 4 of transformers wrote for the names of version 5.
VERSION_4 = (
    ('attention.q_proj', 'attention.self.query'),
    ('attention.k_proj', 'attention.self.key'),
    ('attention.v_proj', 'attention.self.value'),
    ('attention.o_proj', 'attention.output.dense'),
    ('sequence_reduction.sequence_reduction', 'self.sr'),
    ('attention.sequence_reduction.layer_norm', 'attention.self.layer_norm'),
    ('mlp.fc', 'mlp.dense'),
    ('layernorm_before', 'layer_norm_1'),
    ('layernorm_after', 'layer_norm_2'),
)


def test_files_of_transformers_4_and_of_whole_segmentors() -> None:
    published = _randomise(_small())
    (style,) = [s for s in STYLES if s.name == 'transformers']
    file = {'decode_head.classifier.bias': torch.zeros(2)}
    for name, value in style.to_style(published.state_dict()).items():
        for new, old in VERSION_4:
            name = name.replace(new, old)
        parts = name.removeprefix('segformer.stages.').split('.')
        kind = {'blocks': 'block'}.get(parts[1], parts[1])
        name = '.'.join([kind, parts[0], *parts[2:]])
        file[f'segformer.encoder.{name}'] = value
    assert 'segformer.encoder.block.0.0.attention.self.sr.weight' in file
    assert 'segformer.encoder.layer_norm.3.bias' in file
    assert 'segformer.encoder.patch_embeddings.1.proj.bias' in file
    net = _small()
    receipt = load_backbone(net, file, source='file')
    assert receipt.unused == ('decode_head.classifier.bias',)
    for name, value in published.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="no arch 'mit_b6'"):
        MiT('mit_b6')
    with pytest.raises(ValueError, match='give either arch or them'):
        MiT('mit_b0', depths=DEPTHS)
    with pytest.raises(ValueError, match='four stages'):
        MiT(depths=DEPTHS, projection_dims=[8])
    with pytest.raises(ValueError, match='for images only'):
        to_mmseg(_small(spatial_dims=3).state_dict())
