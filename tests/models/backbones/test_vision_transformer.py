import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from upernet_ext.interop import WeightsError, load_pretrained, load_weights
from upernet_ext.interop.vit_transformers import from_vit
from upernet_ext.layers import resample_position_embedding
from upernet_ext.models import VisionTransformer

TINY = dict(embed_dims=24, num_layers=4, num_heads=3)


def vit(spatial_dims: int = 2, **kwargs) -> VisionTransformer:
    arguments = dict(
        patch_size=4,
        img_size=16,
        out_indices=(0, 1, 2, 3),
        spatial_dims=spatial_dims,
        in_channels=2,
    )
    model = VisionTransformer(TINY, **{**arguments, **kwargs})
    model.init_weights()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.fixture
def huggingface() -> ViTModel:
    config = ViTConfig(
        hidden_size=24,
        num_hidden_layers=4,
        num_attention_heads=3,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
    )
    model = ViTModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize('size', [(32, 32), (24, 56)])
def test_equals_transformers(huggingface: ViTModel, size: tuple) -> None:
    ours = VisionTransformer(
        TINY, 8, img_size=32, out_indices=(0, 1, 2, 3), norm_eps=1e-12
    ).eval()
    load_weights(
        ours,
        from_vit(huggingface.state_dict()),
        source='transformers',
        ignored=ours.unused_pretrained_keys,
    )
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = huggingface(
            image, output_hidden_states=True, interpolate_pos_encoding=True
        ).hidden_states[1:]
        found = ours(image)
    grid = [s // 8 for s in size]
    for level, hidden in zip(found, expected, strict=True):
        hidden = hidden[:, 1:].transpose(1, 2).unflatten(2, grid)
        assert (level - hidden).abs().max() <= 1e-5 * hidden.std()


@pytest.mark.needs_torchvision
@pytest.mark.parametrize('final_norm', [False, True])
def test_equals_timm(final_norm: bool) -> None:
    import timm

    theirs = timm.models.VisionTransformer(
        img_size=32,
        patch_size=8,
        embed_dim=24,
        depth=4,
        num_heads=3,
        num_classes=0,
        init_values=0.5,
    ).eval()
    ours = VisionTransformer(
        TINY,
        8,
        img_size=32,
        out_indices=(1, 3),
        init_values=0.5,
        final_norm=final_norm,
    ).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.1)
    receipt = load_weights(
        ours,
        theirs.state_dict(),
        source='timm',
        ignored=ours.unused_pretrained_keys,
    )
    # timm's own names: nothing but the unused norm is left over
    assert receipt.unused == (
        () if final_norm else ('norm.weight', 'norm.bias')
    )
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = theirs.get_intermediate_layers(
            image, n=[1, 3], reshape=True, norm=final_norm
        )
        torch.testing.assert_close(ours(image), expected)


def _reference(model: VisionTransformer, image: Tensor) -> list[Tensor]:
    """Patch by patch, with torch's own transformer layers."""
    patches = image
    for axis in range(2, image.ndim):
        patches = patches.unfold(axis, 4, 4)
    rank = image.ndim - 2
    # (N, C, *grid, *patch) -> (N, prod(grid), C * prod(patch))
    grid = patches.shape[2 : 2 + rank]
    tokens = patches.movedim(1, 1 + rank).flatten(1, rank).flatten(2)
    proj = model.patch_embed.proj
    tokens = tokens @ proj.weight.flatten(1).T + proj.bias
    tokens = torch.cat(
        [model.cls_token.expand(len(tokens), -1, -1), tokens], 1
    )
    tokens = tokens + model.pos_embed
    maps = []
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(
            24, 3, 96, 0, 'gelu', 1e-6, batch_first=True, norm_first=True
        ).eval()
        own = block.state_dict()
        names = {
            'self_attn.in_proj_': 'attn.qkv.',
            'self_attn.out_proj.': 'attn.proj.',
            'linear1.': 'mlp.fc1.',
            'linear2.': 'mlp.fc2.',
            'norm1.': 'norm1.',
            'norm2.': 'norm2.',
        }
        layer.load_state_dict(
            {
                theirs + kind: own[ours + kind]
                for theirs, ours in names.items()
                for kind in ('weight', 'bias')
            }
        )
        tokens = layer(tokens)
        maps.append(tokens[:, 1:].mT.unflatten(2, grid))
    return maps


@pytest.mark.parametrize('spatial_dims', [2, 3])
@torch.no_grad()
def test_equals_torch_transformer_layers(spatial_dims: int) -> None:
    model = vit(spatial_dims)
    image = torch.randn(2, 2, *[16] * spatial_dims)
    for found, wanted in zip(
        model(image), _reference(model, image), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('spatial_dims', [2, 3])
@settings(deadline=None, max_examples=8)
@given(data=st.data())
@torch.no_grad()
def test_any_size_is_padded_by_reflection(
    spatial_dims: int, data: st.DataObject
) -> None:
    size = data.draw(
        st.lists(
            st.integers(1, 14), min_size=spatial_dims, max_size=spatial_dims
        )
    )
    model = vit(spatial_dims, out_indices=(0,))
    image = torch.randn(1, 2, *size)
    padded = image
    whole = [-(-s // 4) * 4 for s in size]
    reflect = all(w - s < s for w, s in zip(whole, size, strict=True))
    for axis, (old, new) in enumerate(zip(size, whole, strict=True), 2):
        # numpy's reflection: ... c b | a b c | b a ...
        index = torch.arange(new)
        beyond = (
            2 * old - 2 - index if reflect else torch.full((new,), old - 1)
        )
        padded = padded.index_select(
            axis, torch.where(index < old, index, beyond)
        )
    (found,), (wanted,) = model(image), model(padded)
    assert list(found.shape[2:]) == [w // 4 for w in whole]
    assert torch.equal(found, wanted)


@pytest.mark.parametrize('spatial_dims', [2, 3])
def test_blocks_behind_the_last_level_do_not_exist(spatial_dims: int) -> None:
    model = vit(spatial_dims, out_indices=(0, 2))
    assert len(model.blocks) == 3
    whole = vit(spatial_dims)
    load_weights(
        model,
        whole.state_dict(),
        source='whole',
        ignored=model.unused_pretrained_keys,
    )
    image = torch.randn(1, 2, *[8] * spatial_dims)
    expected = whole(image)
    for found, wanted in zip(
        model(image), (expected[0], expected[2]), strict=True
    ):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize('spatial_dims', [2, 3])
def test_gradient_checkpointing_changes_no_gradient(spatial_dims: int) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        model = vit(
            spatial_dims,
            gradient_checkpointing=checkpointing,
            drop_path_rate=0.3,
            init_values=0.1,
        ).train()
        image = torch.randn(3, 2, *[8] * spatial_dims)
        torch.manual_seed(2)
        sum(level.square().mean() for level in model(image)).backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_drop_path_rises_linearly_and_needs_training() -> None:
    model = vit(drop_path_rate=0.3)
    rates = [getattr(b.drop_path, 'drop_prob', 0) for b in model.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    image = torch.randn(4, 2, 16, 16)
    assert torch.equal(model(image)[3], model(image)[3])
    model.train()
    assert not torch.equal(model(image)[3], model(image)[3])


def test_position_embedding_of_a_file_is_resampled(tmp_path) -> None:
    source = vit(img_size=32)
    path = tmp_path / 'vit.pth'
    torch.save(source.state_dict(), path)
    model = vit(img_size=16)
    receipt = load_pretrained(model, str(path))
    (change,) = receipt.changes
    assert (change.name, change.kind) == ('pos_embed', 'resized')
    assert (change.old, change.new) == ((1, 65, 24), (1, 17, 24))
    assert torch.equal(
        model.pos_embed,
        resample_position_embedding(source.pos_embed, (8, 8), (4, 4)),
    )


def test_linear_position_field_survives_resampling() -> None:
    """A field that is linear in y and x is resampled to itself, inside.

    Up to 0.05 of a patch: torch's cubic kernel has a = -0.75, and only
    a = -0.5 reproduces lines.
    """
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing='ij')
    field = torch.stack([y, x], -1).reshape(1, 64, 2)
    prefix = torch.randn(1, 1, 2)
    new = resample_position_embedding(
        torch.cat([prefix, field], 1), (8, 8), (16, 16)
    )
    assert torch.equal(new[:, :1], prefix)
    grid = new[0, 1:].reshape(16, 16, 2)[5:-5, 5:-5]
    centres = (torch.arange(16.0) + 0.5) / 2 - 0.5
    torch.testing.assert_close(grid[:, 0, 0], centres[5:-5], rtol=0, atol=0.05)
    torch.testing.assert_close(grid[0, :, 1], centres[5:-5], rtol=0, atol=0.05)


def test_layer_depth_counts_as_beit() -> None:
    with torch.device('meta'):
        model = VisionTransformer('b')
    assert model.get_layer_depth('pos_embed') == (0, 14)
    assert model.get_layer_depth('patch_embed.proj.weight') == (0, 14)
    assert model.get_layer_depth('blocks.0.norm1.weight') == (1, 14)
    assert model.get_layer_depth('blocks.11.mlp.fc2.bias') == (12, 14)
    assert model.get_layer_depth('norm.weight') == (13, 14)
    assert model.get_layer_depth('reg_token') == (0, 14)
    # BEiT counts its shared table to what follows the blocks.
    name = 'rel_pos_bias.relative_position_bias_table'
    assert model.get_layer_depth(name) == (13, 14)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='xl'), "no arch 'xl'"),
        (dict(arch='dinov2-x'), "no arch 'dinov2-x'.*dinov2-"),
        (dict(arch={**TINY, 'depth': 3}), "any of .*got .*'depth'"),
        (dict(arch={'embed_dims': 8}), 'all three'),
        (dict(arch='t', mlp='relu'), "mlp='relu' is unknown"),
        (dict(arch='t', rel_pos_bias=True), 'rel_pos_bias=True is unknown'),
        (dict(arch='beit-b', num_registers=4), 'knows the class token and'),
        (
            dict(arch=TINY, out_indices=(0, 4)),
            r'must rise and lie in \[0, 4\)',
        ),
        (dict(arch=TINY, out_indices=(2, 1)), 'must rise'),
        (dict(arch=TINY), 'no default out_indices for 4 blocks'),
        (dict(arch='t', img_size=(8, 8, 8)), 'has 3 axes, but spatial_dims=2'),
        (dict(arch='t', spatial_dims=4), 'spatial_dims must be 2'),
    ],
)
def test_refuses(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VisionTransformer(**kwargs)


# Every part that a preset can have, in few variants.
VARIANTS = {
    'DINOv2': dict(num_registers=3, antialias=True, init_values=0.5),
    'DINOv3': dict(
        rope={'base': 100.0},
        pos_embed=False,
        num_registers=4,
        qkv_bias='qv',
        mlp='swiglu',
    ),
    'BEiT': dict(rel_pos_bias='block', pos_embed=False, qkv_bias='qv'),
    'BEiT, pre-training': dict(rel_pos_bias='shared'),
    'EVA-02': dict(
        rope=dict(base=10000.0, reference_grid=16, interleaved=True),
        mlp='swiglu-norm',
        qkv_bias='qv',
    ),
}


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('spatial_dims', [2, 3])
def test_every_variant_has_any_rank(variant: str, spatial_dims: int) -> None:
    """State-dict keys are those of 2D, and each parameter matters."""
    model = vit(spatial_dims, **VARIANTS[variant]).train()
    assert set(model.state_dict()) == set(
        vit(**VARIANTS[variant]).state_dict()
    )
    size = (10, 17, 8)[:spatial_dims]
    maps = model(torch.randn(2, 2, *size))
    grid = [-(-s // 4) for s in size]
    assert [list(m.shape) for m in maps] == [[2, 24, *grid]] * 4
    maps[-1].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize('variant', ['DINOv3', 'BEiT', 'EVA-02'])
@pytest.mark.parametrize('spatial_dims', [2, 3])
@torch.no_grad()
def test_relative_positions_tell_patches_apart(
    variant: str, spatial_dims: int
) -> None:
    """Without learned positions, only they know where a patch is.

    An image whose patches are moved around along an axis gives the same
    tokens, moved, if and only if the model has no notion of place.
    """
    options = dict(VARIANTS[variant], pos_embed=False)
    image = torch.randn(1, 2, *[12] * spatial_dims)
    for axis in range(2, 2 + spatial_dims):
        for blind in (False, True):
            torch.manual_seed(3)
            off = dict(rope=False, rel_pos_bias=False) if blind else {}
            model = vit(spatial_dims, img_size=12, **{**options, **off})
            found = model(image.roll(4, axis))[-1]
            wanted = model(image)[-1].roll(1, axis)
            assert torch.allclose(found, wanted, atol=1e-5) == blind


@pytest.mark.parametrize('variant', VARIANTS)
@torch.no_grad()
def test_low_precision_stays_near(variant: str) -> None:
    model = vit(**VARIANTS[variant])
    image = torch.randn(1, 2, 16, 24)
    wanted = model(image)[-1]
    with torch.autocast('cpu', torch.bfloat16):
        found = model(image)[-1]
    # bfloat16 keeps 8 bits
    assert (found - wanted).abs().max() < 0.1 * wanted.std()


def test_initial_values() -> None:
    model = VisionTransformer(
        TINY, num_registers=4, out_indices=(3,), rope={}, qkv_bias='qv'
    )
    model.init_weights()
    assert 0 < model.reg_token.abs().max() < 1e-4
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.1)
    for block in model.blocks:
        assert not block.attn.q_bias.any()
        assert block.attn.qkv.weight.std().item() == pytest.approx(
            0.02, rel=0.1
        )


def test_position_embedding_that_is_no_square_is_refused(tmp_path) -> None:
    weights = vit().state_dict()
    weights['pos_embed'] = torch.zeros(1, 12, 24)
    torch.save(weights, tmp_path / 'vit.pth')
    with pytest.raises(WeightsError, match=r'pos_embed \(\(1, 12, 24\) in'):
        load_pretrained(vit(), str(tmp_path / 'vit.pth'))


def test_builds_on_the_meta_device() -> None:
    with torch.device('meta'):
        model = VisionTransformer('h', 14)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(
        632e6, rel=0.01
    )  # ViT-Huge, 632 M (ViT paper, table 1)
