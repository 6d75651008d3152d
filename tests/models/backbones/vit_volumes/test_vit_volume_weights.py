"""Weights of images, of other grids and patches, in a ViT of volumes."""

import pytest
import torch

from upernet_ext.interop import WeightsError
from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.models import VisionTransformer

from .conftest import FAMILIES, TINY, difference, slices, vit


def test_patches_of_other_sizes_and_grey_volumes() -> None:
    """Both at once: 8 x 8 to 3 x 4 x 8, and red, green and blue to grey."""
    images = vit(patch_size=(4, 8), img_size=(16, 32))
    file = vit(patch_size=8).state_dict()
    load_backbone(images, file, source='images')
    volumes = vit(
        patch_size=(3, 4, 8),
        img_size=(12, 16, 32),
        spatial_dims=3,
        in_channels=1,
    )
    receipt = load_backbone(volumes, file, source='images')
    whys = [c.why for c in receipt.changes if c.name.startswith('patch')]
    assert whys == [
        'least-squares kernel of the other patch size, '
        'inflated: the mean over 3 slices',
        'sum over red, green and blue',
    ]
    grey = torch.randn(1, 1, 1, 16, 32)
    with torch.no_grad():
        deep = volumes(grey.repeat(1, 1, 7, 1, 1))[-1]
        flat = images(grey[:, :, 0].repeat(1, 3, 1, 1))[-1]
    assert deep.shape == (1, 24, 3, 4, 4)
    assert (deep - flat.unsqueeze(2)).abs().max() <= 1e-4 * flat.std()


@pytest.mark.parametrize('family', FAMILIES)
@torch.no_grad()
def test_weights_of_another_grid(family: str) -> None:
    """A table of 5 x 5 has as many entries as one of 5 x 2 x 2."""
    file = vit(family, img_size=40).state_dict()
    images = vit(family, img_size=16)
    load_backbone(images, file, source='images')
    volumes = vit(
        family, img_size=(20, 16, 16), patch_size=(4, 8, 8), spatial_dims=3
    )
    load_backbone(volumes, file, source='images')
    assert difference(volumes, images, slices((16, 16))) <= 1e-4


@torch.no_grad()
def test_weights_of_timm_with_registers() -> None:
    """It has added the position of the class token to the token."""
    family = 'DINOv2, registers'
    images = vit(family)
    file = images.state_dict()
    first, file['pos_embed'] = file['pos_embed'].tensor_split([1], 1)
    file['cls_token'] = file['cls_token'] + first
    volumes = vit(family, spatial_dims=3, patch_size=(4, 8, 8))
    load_backbone(volumes, file, source='timm')
    assert difference(volumes, images, slices((32, 32))) <= 1e-4


def test_weights_of_volumes_of_another_patch() -> None:
    file = vit(spatial_dims=3).state_dict()
    thin = vit(spatial_dims=3, patch_size=(4, 8, 8), img_size=(16, 32, 32))
    receipt = load_backbone(thin, file, source='volumes')
    assert [c.name for c in receipt.changes] == ['patch_embed.proj.weight']
    # A constant along z has the same token.
    name = 'patch_embed.proj.weight'
    torch.testing.assert_close(
        thin.state_dict()[name].sum(2),
        file[name].sum(2),
        rtol=1e-3,  # a pseudo-inverse in fp32
        atol=1e-3,
    )


@torch.no_grad()
def test_embedding_of_the_depth_is_resampled() -> None:
    """A field that is linear in z is resampled to itself, inside."""
    volumes = vit(spatial_dims=3, img_size=(64, 32, 32))
    depths = torch.arange(8.0).reshape(1, 8, 1).expand(1, 8, 24)
    volumes.z_pos_embed.copy_(depths)
    deeper = volumes._z_positions(16)
    assert deeper.shape == (1, 24, 16, 1, 1)
    inside = (torch.arange(16.0) + 0.5) / 2 - 0.5
    # torch's cubic kernel (a = -0.75) reproduces lines to 0.05 of a patch
    torch.testing.assert_close(
        deeper[0, 5, 5:-5, 0, 0], inside[5:-5], rtol=0, atol=0.05
    )
    assert torch.equal(
        volumes._z_positions(8)[0, 5].flatten(), depths[0, :, 5]
    )


@pytest.mark.parametrize('family', ['DINOv3', 'MAE', 'BEiT'])
@torch.no_grad()
def test_file_of_another_depth_is_resampled_as_at_run_time(
    family: str,
) -> None:
    source = vit(family, spatial_dims=3)
    target = vit(family, spatial_dims=3, img_size=(48, 32, 32))
    weights = source.state_dict()
    if family == 'BEiT':  # files are taken to be of a cube
        del target.blocks[:], source.blocks[:], target.out_indices
        target.out_indices = source.out_indices = ()
        weights = {k: v for k, v in weights.items() if 'blocks' not in k}
    receipt = load_backbone(target, weights, source='volumes')
    assert 'z_pos_embed' in {change.name for change in receipt.changes}
    volume = torch.randn(1, 3, 48, 32, 32)
    for found, wanted in zip(target(volume), source(volume), strict=True):
        torch.testing.assert_close(found, wanted)


def test_what_is_inflated() -> None:
    with torch.device('meta'):
        assert VisionTransformer('dinov2-s', spatial_dims=3).inflated
        assert VisionTransformer('beit-b', spatial_dims=3).inflated
        assert not VisionTransformer('dinov2-s', spatial_dims=2).inflated
        assert not VisionTransformer('primus-s', spatial_dims=3).inflated
        assert not VisionTransformer('s', spatial_dims=3).inflated
        model = VisionTransformer('s', spatial_dims=3, inflated=True)
    assert model.pos_embed.shape == (1, 1 + 14 * 14, 384)
    model = VisionTransformer(TINY, spatial_dims=3, inflated=True)
    model.init_weights()
    assert model.pos_embed.any()
    assert model.z_pos_embed.shape == (1, 14, 24)
    assert not model.z_pos_embed.any()


@pytest.mark.parametrize(
    ('of_file', 'of_model', 'message'),
    [
        (
            dict(),
            dict(spatial_dims=3, inflated=False),
            'is for images, which a model of inflated=False cannot be: set '
            'backbone.inflated=True',
        ),
        (
            dict(spatial_dims=3, inflated=False),
            dict(spatial_dims=3),
            'built for volumes, .*set backbone.inflated=False',
        ),
        (
            dict(spatial_dims=3),
            dict(spatial_dims=3, inflated=False),
            'built for volumes, .*set backbone.inflated=True',
        ),
        (dict(spatial_dims=3), dict(), r'patch_embed.*1 of other shape|1 in'),
    ],
)
def test_weights_of_another_kind_are_refused(
    of_file: dict, of_model: dict, message: str
) -> None:
    with pytest.raises(WeightsError, match=message):
        load_backbone(
            vit(**of_model), vit(**of_file).state_dict(), source='file'
        )
