"""Primus is EVA-02's blocks, as timm has them, on a volume's patches."""

import pytest
import torch
from torch import Tensor, nn

from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.models import VisionTransformer
from upernet_ext.models.backbones.primus import PRESETS

# A small one: heads of 18 channels, three of them an axis and a pair.
SMALL = dict(embed_dims=36, num_layers=2, num_heads=2, out_indices=(0, 1))
GRID = (2, 3, 4)


class _Reference(nn.Module):
    """What dynamic_network_architectures' Eva does with timm's blocks."""

    def __init__(self, embed_dims: int, num_layers: int, num_heads: int):
        from timm import layers
        from timm.models import eva

        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv3d(1, embed_dims, 8, 8)
        self.pos_embed = nn.Parameter(torch.zeros(1, 24, embed_dims))
        self.blocks = nn.ModuleList(
            eva.EvaBlock(
                dim=embed_dims,
                num_heads=num_heads,
                qkv_fused=False,
                mlp_ratio=8 / 3,
                swiglu_mlp=True,
                scale_mlp=True,
                scale_attn_inner=True,
                norm_layer=nn.LayerNorm,
                init_values=0.1,
                num_prefix_tokens=0,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dims)
        self.rope = layers.RotaryEmbeddingCat(
            round(embed_dims // num_heads / 1.5),
            in_pixels=False,
            feat_shape=list(GRID),
            ref_feat_shape=list(GRID),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.patch_embed.proj(x).flatten(2).mT + self.pos_embed
        levels = []
        for block in self.blocks:
            x = block(x, rope=self.rope.get_embed())
            levels.append(self.norm(x).mT.unflatten(2, GRID))
        return levels


@pytest.mark.needs_torchvision
@torch.no_grad()
def test_equals_timms_blocks() -> None:
    theirs = _Reference(36, 2, 2).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    ours = VisionTransformer(
        {**PRESETS['primus-s'], **SMALL},
        img_size=[8 * size for size in GRID],
        in_channels=1,
        spatial_dims=3,
    ).eval()
    receipt = load_backbone(ours, theirs.state_dict(), source='timm')
    assert set(receipt.matched) == set(ours.state_dict())
    assert [receipt.changes, receipt.missing, receipt.unused] == [()] * 3
    volume = torch.randn(2, 1, *[8 * size for size in GRID])
    for found, wanted in zip(ours(volume), theirs(volume), strict=True):
        assert (found - wanted).abs().max() <= 1e-5 * wanted.std()


@pytest.mark.parametrize(
    ('size', 'dims', 'levels'),
    [
        ('s', (396, 12, 6), (2, 5, 8, 11)),
        ('b', (792, 12, 12), (2, 5, 8, 11)),
        ('m', (864, 16, 12), (3, 7, 11, 15)),
        ('l', (1056, 24, 16), (5, 11, 17, 23)),
    ],
)
def test_sizes_of_the_authors_code(
    size: str, dims: tuple[int, ...], levels: tuple[int, ...]
) -> None:
    with torch.device('meta'):
        model = VisionTransformer(f'primus-{size}', spatial_dims=3)
    embed_dims, num_layers, num_heads = dims
    assert model.out_channels == (embed_dims,) * 4
    assert model.out_strides == ((8, 8, 8),) * 4
    assert len(model.blocks) == num_layers
    assert model.blocks[0].attn.num_heads == num_heads
    assert model.out_indices == levels
    assert model.num_prefix_tokens == 0
    assert not model.inflated
    # Thirds: each axis turns a third of a head's channels, and none is left.
    assert embed_dims // num_heads % 6 == 0
    assert model.pos_embed.shape == (1, 12**3, embed_dims)


def test_every_parameter_is_trained_from_scratch() -> None:
    model = VisionTransformer(
        {**PRESETS['primus-s'], **SMALL},
        img_size=16,
        in_channels=1,
        spatial_dims=3,
        drop_path_rate=0.2,
    )
    model.init_weights()
    assert model.blocks[0].ls1.gamma.eq(0.1).all()
    # A size that is no multiple, and another grid than the positions'.
    levels = model.train()(torch.randn(2, 1, 20, 9, 24))
    assert [tuple(m.shape) for m in levels] == [(2, 36, 3, 2, 3)] * 2
    sum(level[0].std() for level in levels).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_a_bias_of_distances_needs_a_class_token() -> None:
    with pytest.raises(ValueError, match='class_token=False; set rel_pos'):
        VisionTransformer(
            SMALL, class_token=False, rel_pos_bias='block', spatial_dims=3
        )
