"""Weights of images for networks of volumes, through the loading door."""

import pytest
import torch
from torch import nn

from upernet_ext.interop import WeightsError, load_segmentor
from upernet_ext.interop.inflate import inflate
from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.models.backbones import build_backbone
from upernet_ext.registry import MODELS

RESNET = dict(type='upernet_ext.ResNet', arch='resnet18', base_channels=8)
CONVNEXT = dict(
    type='upernet_ext.ConvNeXt',
    depths=(1,) * 4,
    projection_dims=(8, 16, 24, 32),
)


def _build(cfg, spatial_dims, in_channels=3, **kwargs):
    network, _ = build_backbone(
        cfg, in_channels=in_channels, spatial_dims=spatial_dims, **kwargs
    )
    network.eval()
    return network


def test_kernels_go_into_the_middle():
    plane, volume = _build(RESNET, 2), _build(RESNET, 3)
    receipt = load_backbone(volume, plane.state_dict(), source='a file')
    kernel = plane.conv1.weight
    new = volume.conv1.weight
    torch.testing.assert_close(new[:, :, 3], kernel, rtol=0, atol=0)
    assert new.sum(2).equal(kernel)
    assert not new[:, :, [0, 1, 2, 4, 5, 6]].any()
    norm = volume.layer1[0].bn1
    assert norm.running_var.equal(plane.layer1[0].bn1.running_var)
    kernels = [n for n, v in plane.state_dict().items() if v.ndim == 4]
    assert [c.name for c in receipt.changes] == kernels
    assert {c.kind for c in receipt.changes} == {'reshaped'}
    (first, *_) = receipt.changes
    assert (first.old, first.new) == ((8, 3, 7, 7), (8, 3, 7, 7, 7))
    assert f'{len(kernels)} reshaped: conv1.weight' in receipt.summary()
    assert 'inflated: the 2D kernel in the middle' in receipt.summary()


def test_patches_are_spread_over_their_depth():
    plane = _build(CONVNEXT, 2)
    volume = _build(CONVNEXT, 3, spacing=(5, 1, 1))
    load_backbone(volume, plane.state_dict(), source='a file')
    assert volume.stem[0].weight.shape[2:] == (1, 4, 4)
    down, kernel = (
        net.stages[1].downsample[1].weight for net in (volume, plane)
    )
    assert down.shape[2:] == (2, 2, 2)
    for z in range(2):
        torch.testing.assert_close(down[:, :, z], kernel / 2)


@pytest.mark.parametrize('channels', [1, 2, 4])
def test_channels_are_fitted_as_in_2d(channels):
    plane = _build(RESNET, 2)
    fitted = _build(RESNET, 2, in_channels=channels)
    volume = _build(RESNET, 3, in_channels=channels)
    load_backbone(fitted, plane.state_dict(), source='a file')
    receipt = load_backbone(volume, plane.state_dict(), source='a file')
    torch.testing.assert_close(
        volume.conv1.weight[:, :, 3], fitted.conv1.weight
    )
    changes = [c.why for c in receipt.changes if c.name == 'conv1.weight']
    assert len(changes) == 2


def test_timms_names_are_inflated_too():
    """MLPs of the file are linear, those of this network convolutions."""
    cfg = dict(
        type='upernet_ext.ConvNeXt', arch='convnext_v2_atto', out_indices=(0,)
    )
    plane, volume = _build(cfg, 2), _build(cfg, 3)
    weights = {
        n: v.flatten(1) if '.mlp.fc' in n and v.ndim == 4 else v
        for n, v in plane.state_dict().items()
    }
    load_backbone(volume, weights, source='a file')
    found = volume.stages[0].blocks[0].mlp.fc1.weight
    expected = plane.stages[0].blocks[0].mlp.fc1.weight
    assert found.flatten().equal(expected.flatten())


def test_transposed_convolutions_give_every_slice_the_same():
    plane = nn.ConvTranspose2d(2, 3, 2, stride=2)
    volume = nn.ConvTranspose3d(2, 3, 2, stride=2)
    weights, _ = inflate(plane.state_dict(), volume)
    volume.load_state_dict(weights)
    x = torch.randn(1, 2, 4, 4)
    found = volume(x.unsqueeze(2).repeat(1, 1, 3, 1, 1))
    torch.testing.assert_close(found, plane(x).unsqueeze(2).expand_as(found))


@pytest.mark.parametrize('edge', [4, 5])
def test_what_does_not_fit_stays_as_it_is(edge):
    """Kernels without a middle, and of another size in the plane."""
    volume = nn.Conv3d(2, 3, 4, stride=2)
    weights = {'weight': torch.randn(3, 2, edge, edge)}
    assert inflate(weights, volume) == (weights, [])
    other = nn.Conv3d(2, 3, 3)
    assert inflate(weights, other) == (weights, [])


def test_kernels_of_another_size_are_an_error():
    plane = _build(RESNET, 2)
    weights = plane.state_dict()
    weights['conv1.weight'] = torch.randn(8, 3, 5, 5)
    with pytest.raises(WeightsError, match=r'conv1.weight \(\(8, 3, 5, 5\)'):
        load_backbone(_build(RESNET, 3), weights, source='a file')


def _segmentor(spatial_dims, in_channels=3):
    neck = dict(type='upernet_ext.MultiLevelNeck', out_channels=8)
    head = dict(channels=8, norm_cfg=dict(type='BN'), dropout_ratio=0)
    return MODELS.build(
        dict(
            type='upernet_ext.EncoderDecoder',
            backbone={**RESNET, 'out_indices': (1, 2, 3, 4)},
            neck=neck,
            decode_head=dict(type='upernet_ext.UPerHead', **head),
            auxiliary_head=dict(type='upernet_ext.FCNHead', **head),
            num_classes=3,
            in_channels=in_channels,
            spatial_dims=spatial_dims,
        )
    )


def test_a_whole_2d_segmentor_is_inflated():
    """Backbone, neck and heads: the logits of each slice are the image's."""
    plane, volume = _segmentor(2), _segmentor(3)
    plane.init_weights()
    for name, value in plane.state_dict().items():
        if name.endswith('running_mean'):
            value.normal_(0, 0.1)
    receipt = load_segmentor(volume, plane.state_dict(), source='a file')
    assert {c.name.split('.')[0] for c in receipt.changes} == {
        'auxiliary_head',
        'backbone',
        'decode_head',
        'neck',
    }
    assert not receipt.missing
    plane.eval()
    volume.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = plane(x)
        found = volume(x.unsqueeze(2).repeat(1, 1, 32, 1, 1))
    deviation = (found - expected.unsqueeze(2)).abs().max() / expected.std()
    assert deviation <= 1e-4


def test_a_segmentors_rgb_stem_is_fitted_to_grey():
    plane, volume = _segmentor(2), _segmentor(3, in_channels=1)
    load_segmentor(volume, plane.state_dict(), source='a file')
    torch.testing.assert_close(
        volume.backbone.conv1.weight[:, :, 3],
        plane.backbone.conv1.weight.sum(1, keepdim=True),
    )
