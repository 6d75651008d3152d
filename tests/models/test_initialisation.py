"""How modules start, where it is not torch's default."""

import pytest
import torch

from upernet_ext.models import MultiLevelNeck, VisionTransformer


@pytest.mark.parametrize('spatial_dims', [2, 3])
def test_multilevel_neck_is_xavier_uniform(spatial_dims: int) -> None:
    neck = MultiLevelNeck([32] * 4, 16, spatial_dims=spatial_dims)
    neck.init_weights()
    for convs, fan_in, taps in (
        (neck.lateral_convs, 32, 1),
        (neck.convs, 16, 3**spatial_dims),
    ):
        bound = (6 / (taps * (fan_in + 16))) ** 0.5
        for module in convs:
            largest = module.conv.weight.abs().max().item()
            assert 0.95 * bound < largest <= bound
            assert module.conv.bias.abs().max() == 0


def test_vision_transformer_is_truncated_normal() -> None:
    model = VisionTransformer('t', out_indices=(0,), init_values=0.1)
    model.init_weights()
    block = model.blocks[0]
    for weight in (
        model.pos_embed,
        block.attn.qkv.weight,
        block.mlp.fc2.weight,
    ):
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert abs(weight.mean().item()) < 1e-3
    assert block.attn.qkv.bias.abs().max() == 0
    assert torch.equal(block.ls1.gamma, torch.full((192,), 0.1))
    assert model.cls_token.std() < 1e-5
