"""A 2D network that takes volumes slice by slice, and what knows it."""

import copy

import pytest
import torch
from torch import nn

from upernet_ext.interop import load_segmentor
from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.models.adapters import Slicewise
from upernet_ext.models.backbones import build_backbone
from upernet_ext.models.backbones.layer_depth import layer_depth
from upernet_ext.models.tuning import apply_tuning, merge_lora
from upernet_ext.registry import MODELS

RESNET = dict(
    type='upernet_ext.ResNet',
    arch='resnet18',
    base_channels=8,
    adapter='slicewise',
)
VIT = dict(
    type='upernet_ext.VisionTransformer',
    arch=dict(embed_dims=16, num_layers=4, num_heads=2, num_registers=2),
    out_indices=(0, 1, 2, 3),
    img_size=32,
    adapter='slicewise',
)
MMSEG = dict(
    type='mmseg.ResNetV1c', depth=18, base_channels=8, adapter='slicewise'
)


def build(cfg, spatial_dims=3, in_channels=1, **kwargs):
    network, _ = build_backbone(
        cfg, in_channels=in_channels, spatial_dims=spatial_dims, **kwargs
    )
    network.init_weights()
    network.eval()
    return network


def segmentor(backbone, spatial_dims, **kwargs):
    is_vit = backbone['type'].endswith('VisionTransformer')
    neck = dict(type='upernet_ext.MultiLevelNeck', out_channels=8)
    return MODELS.build(
        dict(
            type='upernet_ext.EncoderDecoder',
            backbone=backbone,
            neck=neck if is_vit else None,
            decode_head=dict(
                type='upernet_ext.UPerHead',
                channels=8,
                norm_cfg=dict(type='GN'),
                dropout_ratio=0,
            ),
            num_classes=2,
            in_channels=1,
            spatial_dims=spatial_dims,
            **kwargs,
        )
    )


@pytest.mark.parametrize('cfg', [RESNET, VIT, MMSEG])
def test_new_are_the_z_convolutions_alone(cfg):
    volume, plane = build(cfg), build(cfg, 2)
    assert isinstance(volume, (Slicewise, type(plane)))
    new = {n for n in volume.state_dict() if n.startswith('z_convs.')}
    assert set(volume.state_dict()) - new == set(plane.state_dict())
    assert all(
        volume.state_dict()[n].shape == v.shape
        for n, v in plane.state_dict().items()
    )
    receipt = load_backbone(volume, plane.state_dict(), source='a file')
    assert set(receipt.missing) == new
    assert not receipt.changes


def test_initialisation_leaves_z_alone():
    """The network's own goes over every convolution that it finds."""
    network = build(RESNET)
    assert not any(c.weight.any() for c in network.z_convs)
    assert all(c.weight.shape[2:] == (3, 1, 1) for c in network.z_convs)


def test_levels_are_mixed_and_averaged_along_z():
    volume, plane = build(RESNET), build(RESNET, 2)
    load_backbone(volume, plane.state_dict(), source='a file')
    for layer in volume.z_convs:
        nn.init.normal_(layer.weight)
    x = torch.randn(2, 1, 7, 32, 32)
    with torch.no_grad():
        maps = volume(x)
        slices = [plane(x[:, :, z]) for z in range(7)]
    for level, (found, kernel) in enumerate(
        zip(maps, volume.z_convs, strict=True)
    ):
        rows = torch.stack([s[level] for s in slices], 2)
        padded = torch.nn.functional.pad(rows, (0, 0, 0, 0, 1, 1))
        weight = kernel.weight.view(-1, 3)
        mixed = rows + sum(
            weight[:, k].view(-1, 1, 1, 1) * padded[:, :, k : k + 7]
            for k in range(3)
        )
        step = 2 ** (level + 1)
        means = [mixed[:, :, i : i + step].mean(2) for i in range(0, 7, step)]
        torch.testing.assert_close(
            found, torch.stack(means, 2), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize('slice_batch', [1, 3, 100])
def test_chunks_change_nothing(slice_batch):
    network = build(RESNET)
    x = torch.randn(2, 1, 5, 32, 32)
    with torch.no_grad():
        expected = network(x)
        network.slice_batch = slice_batch
        torch.testing.assert_close(network(x), expected)
    adapter = dict(type='slicewise', slice_batch=slice_batch)
    assert build({**RESNET, 'adapter': adapter}).slice_batch == slice_batch


@pytest.mark.parametrize('cfg', [RESNET, VIT, MMSEG])
def test_a_copy_is_the_same_network(cfg):
    network = build(cfg)
    x = torch.randn(1, 1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(copy.deepcopy(network)(x), network(x))


@pytest.mark.parametrize('depth', [1, 5, 16, 33])
def test_a_vit_takes_any_depth(depth):
    """Whole patches along z too, so that voxels and maps stay aligned."""
    model = segmentor(VIT, 3)
    seen = []
    model.backbone.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[2:])
    )
    out = model(torch.randn(1, 1, depth, 40, 32))
    assert out.shape == (1, 2, depth, 40, 32)
    assert seen == [(-(-depth // 16) * 16, 48, 32)]


@pytest.mark.parametrize('cfg', [RESNET, VIT, MMSEG])
def test_z_convolutions_lie_behind_the_network(cfg):
    volume, plane = build(cfg), build(cfg, 2)
    for name, _ in volume.named_parameters():
        layer, total = layer_depth(volume, name)
        if name.startswith('z_convs.'):
            assert layer == total - 1
        else:
            assert (layer, total) == layer_depth(plane, name)


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('cfg', [RESNET, VIT], ids=['resnet', 'vit'])
def test_z_is_learned_under_checkpointing(cfg, channels_last):
    cfg = {**cfg, 'gradient_checkpointing': True}
    model = segmentor(cfg, 3, channels_last=channels_last).train()
    start = [c.weight.detach().clone() for c in model.backbone.z_convs]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, target = torch.randn(2, 1, 16, 32, 32), torch.randn(2, 2, 16, 32, 32)
    losses = []
    for _ in range(8):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    used = model.decode_head.in_index
    for level in used:
        layer = model.backbone.z_convs[level]
        assert not torch.equal(layer.weight, start[level]), level


@pytest.mark.parametrize(
    'tuning',
    [dict(type='lora'), dict(type='freeze', what='all')],
    ids=['lora', 'freeze'],
)
def test_tuning_trains_z(tuning):
    volume, plane = build(VIT), build(VIT, 2)
    weights = plane.state_dict()
    kept = apply_tuning(volume, tuning)
    receipt = load_backbone(volume, weights, source='a file')
    assert len(receipt.matched) == len(weights)
    trained = {n for n, p in volume.named_parameters() if p.requires_grad}
    assert {n for n in trained if 'lora_' not in n} == {
        f'z_convs.{i}.weight' for i in range(4)
    }
    assert volume.z_convs not in kept
    x = torch.randn(1, 1, 16, 32, 32)
    sum(m.sum() for m in volume(x)).backward()
    assert all(c.weight.grad.abs().sum() > 0 for c in volume.z_convs)
    if tuning['type'] == 'lora':
        merge_lora(volume)
        assert set(weights) < set(volume.state_dict())


def test_a_2d_segmentor_becomes_one_of_volumes():
    plane, volume = segmentor(MMSEG, 2), segmentor(MMSEG, 3)
    plane.init_weights()
    receipt = load_segmentor(volume, plane.state_dict(), source='a file')
    assert {n.split('.')[1] for n in receipt.missing} == {'z_convs'}
    plane.eval()
    volume.eval()
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected = plane(x)
        found = volume(x.unsqueeze(2).repeat(1, 1, 32, 1, 1))
    torch.testing.assert_close(
        found, expected.unsqueeze(2).expand_as(found), rtol=1e-4, atol=1e-4
    )
