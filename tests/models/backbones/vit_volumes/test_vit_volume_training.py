"""A ViT of volumes trains: all of it, its adapters, or its depth alone."""

from pathlib import Path

import pytest
import torch
from mmseg.structures import SegDataSample

from upernet_ext.models import EncoderDecoder, VisionTransformer
from upernet_ext.models.tuning import add_lora, freeze, merge_lora
from upernet_ext.structures import GridData

from .conftest import FAMILIES, PATCH, TINY, difference, inflated, slices, vit


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
