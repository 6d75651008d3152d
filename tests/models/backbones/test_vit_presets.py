"""The table of published plain ViTs."""

import pytest
import torch
from torch import nn

from upernet_ext.models import VisionTransformer
from upernet_ext.models.backbones.vit_presets import ENCODERS, PRESETS


def test_every_encoder_is_a_preset_and_tells_its_origin() -> None:
    assert set(ENCODERS) == set(PRESETS)
    for name, entry in ENCODERS.items():
        assert entry.backbone['arch'] == name
        assert entry.weights or entry.weights_page
        assert entry.licence
        assert entry.source.startswith('https://')
        assert all(0 < value < 255 for value in (*entry.mean, *entry.std))
        gated = name.startswith(('dinov3', 'retfound'))
        assert ('gated' in entry.licence) == gated
        assert entry.weights is None or not gated


def test_arguments_go_before_the_preset() -> None:
    with torch.device('meta'):
        preset = VisionTransformer('dinov2-s')
        changed = VisionTransformer(
            'dinov2-s', 16, img_size=224, init_values=0, final_norm=False
        )
    assert preset.patch_size == (14, 14)
    assert preset.grid == (37, 37)
    assert preset.norm is not None
    assert preset.blocks[0].ls1.gamma.shape == (384,)
    assert changed.patch_size == (16, 16)
    assert changed.grid == (14, 14)
    assert changed.norm is None
    assert isinstance(changed.blocks[0].ls1, nn.Identity)


@pytest.mark.parametrize(
    ('preset', 'levels', 'millions'),
    [
        # DINOv3 table 2, of which the masked biases are no parameters here
        ('dinov3-s', (2, 5, 8, 11), 21),
        ('dinov3-s+', (2, 5, 8, 11), 29),
        ('dinov3-b', (2, 5, 8, 11), 86),
        ('dinov3-l', (4, 11, 17, 23), 300),
        ('dinov3-h+', (7, 15, 23, 31), 840),
        ('dinov3-7b', (9, 19, 29, 39), 6716),
        ('dinov2-g', (9, 19, 29, 39), 1136),
        ('retfound-mae-l', (5, 11, 17, 23), 303),
    ],
)
def test_size_and_levels_of_presets(
    preset: str, levels: tuple[int, ...], millions: float
) -> None:
    with torch.device('meta'):
        model = VisionTransformer(preset)
    assert model.out_indices == levels
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    assert parameters == pytest.approx(millions, rel=0.03)
