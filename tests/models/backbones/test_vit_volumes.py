"""A ViT for images in full attention over a volume."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from upernet_ext.interop import Receipt, WeightsError
from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.layers.transformer import Attention, Positions
from upernet_ext.models import EncoderDecoder, VisionTransformer
from upernet_ext.models.tuning import add_lora, freeze, merge_lora
from upernet_ext.structures import GridData

TINY = dict(embed_dims=24, num_layers=3, num_heads=3, out_indices=(0, 1, 2))
PATCH = 8
# What tells the families of published weights apart, in few channels.
FAMILIES = {
    'MAE': {},
    'DINOv2': dict(init_values=0.5, final_norm=True),
    'DINOv2, registers': dict(
        num_registers=4, antialias=True, init_values=0.5, final_norm=True
    ),
    'DINOv3': dict(
        pos_embed=False,
        rope=dict(base=100.0),
        num_registers=4,
        qkv_bias='qv',
        mlp='swiglu',
        init_values=0.5,
        final_norm=True,
    ),
    'EVA-02': dict(
        rope=dict(base=10000.0, reference_grid=4, interleaved=True),
        qkv_bias='qv',
        mlp='swiglu-norm',
    ),
    'BEiT': dict(
        pos_embed=False, rel_pos_bias='block', qkv_bias='qv', init_values=0.5
    ),
    'BEiT, pre-training': dict(rel_pos_bias='shared', qkv_bias='qv'),
}


class _PrefixOnce(VisionTransformer):
    """Without log(D): prefix tokens are one key among D times the patches."""

    def _positions(self, grid: tuple[int, ...], *args) -> Positions:
        places = super()._positions(grid, *args)
        if self.rel_pos_bias is not None:
            bias = self.rel_pos_bias(grid, places.index)
            places = places._replace(bias=bias)
        return places._replace(prefix_copies=1)


def vit(family: str = 'MAE', **kwargs) -> VisionTransformer:
    cls = kwargs.pop('cls', VisionTransformer)
    arguments = dict(img_size=32, patch_size=PATCH, inflated=True)
    model = cls(TINY, **{**arguments, **FAMILIES[family], **kwargs}).eval()
    # Nothing is zero: class token, registers, positions, layer scale. And the
    # prefix tokens are heard, as they are in what is trained.
    for name, parameter in model.named_parameters():
        norm = 'norm' in name and name.endswith('weight')
        nn.init.normal_(parameter, mean=float(norm), std=0.3)
    nn.init.normal_(model.patch_embed.proj.weight, std=0.03)
    return model


def inflated(
    source: VisionTransformer, family: str = 'MAE', **kwargs
) -> tuple[VisionTransformer, Receipt]:
    options = dict(patch_size=(4, PATCH, PATCH), spatial_dims=3)
    model = vit(family, **{**options, **kwargs})
    return model, load_backbone(model, source.state_dict(), source='images')


def difference(
    volumes: VisionTransformer, images: VisionTransformer, volume: Tensor
) -> float:
    """Greatest of all levels and slices, in standard deviations."""
    worst = 0.0
    for deep, flat in zip(
        volumes(volume), images(volume[:, :, 0]), strict=True
    ):
        assert deep.shape[2] == -(-volume.shape[2] // 4)
        error = (deep - flat.unsqueeze(2)).abs().max() / flat.std()
        worst = max(worst, error.item())
    return worst


def slices(size: Sequence[int], depth: int = 10) -> Tensor:
    return torch.randn(2, 3, 1, *size).repeat(1, 1, depth, 1, 1)


@pytest.mark.parametrize(
    ('size', 'depth'), [((32, 32), 12), ((20, 51), 10), ((20, 51), 2)]
)
@pytest.mark.parametrize('family', FAMILIES)
@torch.no_grad()
def test_identical_slices_give_what_an_image_gives(
    family: str, size: tuple[int, int], depth: int
) -> None:
    images = vit(family)
    volumes, _ = inflated(images, family)
    assert difference(volumes, images, slices(size, depth)) <= 1e-4


@pytest.mark.parametrize('family', FAMILIES)
@torch.no_grad()
def test_exactness_in_double_precision(family: str) -> None:
    """2e-14 was measured; on the grid of the weights, for tables are
    resampled in float32.
    """
    images = vit(family).double()
    volumes, _ = inflated(images, family)
    volume = slices((32, 32)).double()
    assert difference(volumes.double(), images, volume) <= 2e-13


@pytest.mark.parametrize('family', FAMILIES)
@torch.no_grad()
def test_prefix_tokens_that_count_once_are_outvoted(family: str) -> None:
    """0.4 to 1.8 standard deviations were measured, with three patches."""
    images = vit(family)
    volumes, _ = inflated(images, family, cls=_PrefixOnce)
    assert difference(volumes, images, slices((32, 32))) > 0.1


@torch.no_grad()
def test_rotary_positions_of_z_would_not_be_an_image_s() -> None:
    images = vit('DINOv3')
    rope = dict(base=100.0, axes='all')
    volumes, _ = inflated(images, 'DINOv3', rope=rope)
    assert difference(volumes, images, slices((32, 32))) > 0.1


@pytest.mark.parametrize('family', FAMILIES)
@torch.no_grad()
def test_depth_is_seen_once_its_embedding_is_not_zero(family: str) -> None:
    """Slices that change places change those of the features, or more."""
    volumes, _ = inflated(vit(family), family)
    volume = torch.randn(1, 3, 16, 32, 32)
    shuffled = volume.roll(4, 2)  # a patch
    for level, moved in zip(volumes(volume), volumes(shuffled), strict=True):
        torch.testing.assert_close(
            moved, level.roll(1, 2), rtol=1e-3, atol=1e-3
        )
        # and they see each other: slices are no batch
        assert (level[:, :, :1] - level).abs().max() > 0.1
    nn.init.normal_(volumes.z_pos_embed)
    last, moved = volumes(volume)[-1], volumes(shuffled)[-1]
    assert (moved - last.roll(1, 2)).abs().max() > 0.1 * last.std()


@torch.no_grad()
def test_copies_of_a_key_are_a_log_on_its_score() -> None:
    layer = Attention(24, 3).double()
    tokens = torch.randn(2, 2 + 6, 24).double()
    found = layer(
        tokens, Positions((3, 2, 1), num_prefix_tokens=2, prefix_copies=3)
    )
    mask = torch.zeros(1, 1, 8, 8).double()
    mask[..., :2] = math.log(3)
    wanted = layer(tokens, Positions((3, 2, 1), bias=mask))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-14)
    once = layer(tokens, Positions((3, 2, 1)))
    assert (found - once).abs().max() > 1e-3


@torch.no_grad()
def test_slices_attend_to_each_other() -> None:
    volumes, _ = inflated(vit(), 'MAE')
    volume = torch.randn(1, 3, 16, 32, 32)
    changed = volume.clone()
    changed[:, :, 12:] = torch.randn(1, 3, 4, 32, 32)
    first, other = volumes(volume)[-1], volumes(changed)[-1]
    assert (first - other)[:, :, 0].abs().max() > 0.01 * first.std()


@pytest.mark.parametrize('family', FAMILIES)
def test_names_are_those_of_images_and_one_more(family: str) -> None:
    images = vit(family)
    volumes, receipt = inflated(images, family)
    names = set(images.state_dict())
    assert set(volumes.state_dict()) == names | {'z_pos_embed'}
    assert volumes.added_keys == ('z_pos_embed',)
    assert images.added_keys == ()
    changes = {change.name: change.kind for change in receipt.changes}
    assert changes.pop('z_pos_embed') == 'set'
    assert changes.pop('patch_embed.proj.weight') == 'reshaped'
    assert all(name.endswith('position_bias_table') for name in changes)
    assert not volumes.z_pos_embed.any()
    # It is as new as the heads, and learns as fast.
    assert volumes.get_layer_depth('z_pos_embed') == (4, 5)


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


@pytest.mark.parametrize('family', ['DINOv2, registers', 'BEiT'])
def test_gradient_checkpointing_changes_no_gradient(family: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        model = vit(
            family,
            spatial_dims=3,
            gradient_checkpointing=checkpointing,
            drop_path_rate=0.3,
        ).train()
        torch.manual_seed(2)
        levels = model(torch.randn(2, 3, 16, 16, 16))
        sum(level.square().mean() for level in levels).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
        assert all(g.abs().max() > 0 for g in gradients[-1].values())
    torch.testing.assert_close(*gradients)


def test_low_rank_adapters_and_the_depth_are_trained() -> None:
    images = vit('DINOv3')
    volumes, _ = inflated(images, 'DINOv3')
    volume = slices((16, 16))
    add_lora(volumes, targets=['qkv'], rank=2, dropout=0.0)
    with torch.no_grad():
        assert difference(volumes, images, volume) <= 1e-4
    trained = {n for n, p in volumes.named_parameters() if p.requires_grad}
    assert 'z_pos_embed' in trained
    assert all('lora_' in name for name in trained - {'z_pos_embed'})
    optimizer = torch.optim.SGD(volumes.parameters(), lr=1.0)
    for _ in range(2):  # at first B is zero, and A has no gradient
        optimizer.zero_grad()
        volumes(volume)[-1].square().mean().backward()
        optimizer.step()
    for name in trained:
        assert volumes.get_parameter(name).grad.abs().max() > 0, name
    with torch.no_grad():
        wanted = volumes(volume)[-1]
        merge_lora(volumes)
        torch.testing.assert_close(
            volumes(volume)[-1], wanted, rtol=1e-4, atol=1e-4
        )
    assert set(volumes.state_dict()) == {*images.state_dict(), 'z_pos_embed'}


@pytest.mark.parametrize('what', ['all', 'all_but_norms', 3])
def test_the_depth_is_trained_where_the_rest_is_frozen(
    what: str | int,
) -> None:
    volumes = vit(spatial_dims=3)
    freeze(volumes, what=what)
    trained = {n for n, p in volumes.named_parameters() if p.requires_grad}
    norms = {n for n in dict(volumes.named_parameters()) if 'norm' in n}
    kept = norms if what == 'all_but_norms' else set()
    assert trained == {'z_pos_embed', *kept}


@pytest.mark.parametrize(
    'neck',
    [
        dict(type='upernet_ext.MultiLevelNeck', out_channels=12),
        dict(type='upernet_ext.Feature2Pyramid', norm_cfg=dict(type='GN')),
    ],
    ids=lambda neck: neck['type'],
)
def test_a_segmentor_of_volumes_trains(neck: dict, tmp_path: Path) -> None:
    layers = dict(TINY, num_layers=4, out_indices=(0, 1, 2, 3))
    options = {**FAMILIES['DINOv2, registers'], 'img_size': 32}
    images = VisionTransformer(layers, PATCH, **options)
    torch.save(images.state_dict(), tmp_path / 'images.pth')
    model = EncoderDecoder(
        backbone=dict(
            type='upernet_ext.VisionTransformer',
            arch=layers,
            patch_size=(4, PATCH, PATCH),
            inflated=True,
            adapter='inflate',
            pretrained=str(tmp_path / 'images.pth'),
            **options,
        ),
        neck=neck,
        decode_head=dict(
            type='upernet_ext.UPerHead',
            channels=8,
            norm_cfg=dict(type='GN', num_groups=2),
        ),
        num_classes=3,
        in_channels=1,
        spatial_dims=3,
    )
    model.init_weights()
    kernel = images.patch_embed.proj.weight.sum(1, keepdim=True)
    torch.testing.assert_close(
        model.backbone.patch_embed.proj.weight.sum(2), kernel
    )
    strides = [tuple(s / f for s in (4, 8, 8)) for f in (4, 2, 1, 0.5)]
    assert list(model.levels.strides) == strides
    size = (10, 20, 27)
    sample = SegDataSample()
    sample.gt_sem_seg = GridData(data=torch.randint(3, (1, *size)))
    losses = model.loss(torch.randn(1, 1, *size), [sample])
    losses['decode.loss_ce'].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.backbone.z_pos_embed.grad.abs().max() > 0
    assert model(torch.randn(1, 1, *size)).shape == (1, 3, *size)


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
