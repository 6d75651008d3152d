"""What is fitted when a file's grid, patch or biases differ."""

import pytest
import torch
from torch import Tensor, nn

from upernet_ext.interop import WeightsError
from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.layers.patch_embed import resample_patch_embedding
from upernet_ext.layers.rank import resize_smooth
from upernet_ext.models import VisionTransformer

SMALL = dict(embed_dims=24, num_layers=2, num_heads=3, out_indices=(0, 1))


def vit(**kwargs) -> VisionTransformer:
    arguments = dict(img_size=32, patch_size=8)
    model = VisionTransformer(SMALL, **{**arguments, **kwargs}).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize('spatial_dims', [2, 3])
def test_resized_patches_give_the_same_tokens(spatial_dims: int) -> None:
    """FlexiViT's property: exact where the new patch is larger."""
    old, new = (4,) * spatial_dims, (6, 8, 7)[:spatial_dims]
    weight = torch.randn(5, 2, *old)
    resampled = resample_patch_embedding(weight, new)
    patches = torch.randn(3, 2, *old)
    larger = resize_smooth(patches, new, antialias=True)
    torch.testing.assert_close(
        larger.flatten(1) @ resampled.flatten(1).T,
        patches.flatten(1) @ weight.flatten(1).T,
        rtol=1e-3,  # a pseudo-inverse in fp32
        atol=1e-3,
    )


@pytest.mark.needs_torchvision
@pytest.mark.parametrize('size', [(8, 8), (14, 10)])
def test_patch_resampling_equals_timm(size: tuple[int, int]) -> None:
    from timm import layers

    weight = torch.randn(5, 3, 16, 16)
    torch.testing.assert_close(
        resample_patch_embedding(weight, size),
        layers.resample_patch_embed(weight, list(size)),
        rtol=1e-3,
        atol=1e-4,
    )


def test_file_of_another_patch_loads_and_says_so() -> None:
    source, target = vit(patch_size=4, img_size=16), vit()
    receipt = load_backbone(target, source.state_dict(), source='file')
    (change,) = receipt.changes
    assert (change.name, change.kind) == (
        'patch_embed.proj.weight',
        'reshaped',
    )
    assert torch.equal(
        target.patch_embed.proj.weight,
        resample_patch_embedding(source.patch_embed.proj.weight, (8, 8)),
    )


@pytest.mark.parametrize('spatial_dims', [2, 3])
@pytest.mark.parametrize('kind', ['shared', 'block'])
@torch.no_grad()
def test_bias_tables_are_resampled_as_at_run_time(
    kind: str, spatial_dims: int
) -> None:
    options = dict(rel_pos_bias=kind, spatial_dims=spatial_dims)
    source = vit(**options, pos_embed=False)
    target = vit(**options, pos_embed=False, img_size=24)
    receipt = load_backbone(target, source.state_dict(), source='file')
    assert {c.kind for c in receipt.changes} == {'resized'}
    assert len(receipt.changes) == (1 if kind == 'shared' else 2)
    image = torch.randn(1, 3, *[24] * spatial_dims)
    for found, wanted in zip(target(image), source(image), strict=True):
        assert torch.equal(found, wanted)


@torch.no_grad()
def test_position_that_timm_adds_to_the_class_token_is_put_back() -> None:
    source, target = vit(num_registers=4), vit(num_registers=4)
    file = source.state_dict()
    position = file['pos_embed'][:, :1]
    file['cls_token'] = file['cls_token'] + position
    file['pos_embed'] = file['pos_embed'][:, 1:]
    receipt = load_backbone(target, file, source='timm')
    assert [c.kind for c in receipt.changes] == ['reshaped']
    image = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(target(image), source(image))


def test_zero_biases_that_a_family_leaves_out_are_set() -> None:
    model = vit(qkv_bias='qv')
    file = {
        name: value
        for name, value in model.state_dict().items()
        if not name.endswith(('q_bias', 'v_bias', 'proj.bias'))
        or name.startswith('blocks.0.attn.proj')
        or name.startswith('blocks.1.attn.proj')
    }
    receipt = load_backbone(model, file, source='file')
    assert {c.kind for c in receipt.changes} == {'set'}
    zeros = {c.name for c in receipt.changes}
    assert zeros == {
        'patch_embed.proj.bias',
        *(f'blocks.{i}.attn.{part}_bias' for i in (0, 1) for part in 'qv'),
    }
    own = model.state_dict()
    assert not any(own[name].any() for name in zeros)


def _without(name: str, model: VisionTransformer) -> dict[str, Tensor]:
    return {k: v for k, v in model.state_dict().items() if k != name}


@pytest.mark.parametrize(
    'name', ['blocks.1.attn.q_bias', 'cls_token', 'blocks.0.ls1.gamma']
)
def test_a_bias_that_only_one_block_lacks_is_missing(name: str) -> None:
    model = vit(qkv_bias='qv', init_values=0.1)
    with pytest.raises(WeightsError, match=f'1 missing from it: {name}'):
        load_backbone(model, _without(name, model), source='file')
