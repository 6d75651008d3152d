"""Networks of timm through the door."""

import sys
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from upernet_ext.interop import WeightsError, load_pretrained
from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.models.backbones import backbone_levels, build_backbone
from upernet_ext.registry import MODELS

pytestmark = [
    pytest.mark.needs_torchvision,
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
]
SIZE = (64, 96)
SWIN = dict(embed_dim=12, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4))
# name, arguments of timm's model, channels of the levels, strides. HRNet and
# DenseNet have no forward_intermediates, Swin gives maps channels last.
NETWORKS = {
    'resnet18': ({}, (64, 64, 128, 256, 512), (2, 4, 8, 16, 32)),
    'mobilenetv3_small_050': ({}, (16, 8, 16, 24, 288), (2, 4, 8, 16, 32)),
    'pvt_v2_b0': ({}, (32, 64, 160, 256), (4, 8, 16, 32)),
    'swin_tiny_patch4_window7_224': (
        dict(SWIN, img_size=SIZE, window_size=2),
        (12, 24, 48, 96),
        (4, 8, 16, 32),
    ),
    'swinv2_tiny_window8_256': (
        dict(SWIN, img_size=SIZE, window_size=2),
        (12, 24, 48, 96),
        (4, 8, 16, 32),
    ),
    'vit_tiny_patch16_224': (
        dict(img_size=SIZE, depth=8, embed_dim=24, num_heads=2),
        (24,) * 4,
        (16,) * 4,
    ),
    'hrnet_w18_small': ({}, (64, 128, 256, 512, 1024), (2, 4, 8, 16, 32)),
    'densenet121': (
        dict(growth_rate=4, block_config=(1, 2, 1, 1)),
        (8, 12, 14, 11, 9),
        (2, 4, 8, 16, 32),
    ),
}
networks = pytest.mark.parametrize('name', NETWORKS)


def _randomise(net: nn.Module) -> nn.Module:
    for name, value in net.state_dict().items():
        if 'running_var' in name:
            value.uniform_(0.5, 2)
        elif value.is_floating_point() and value.any():
            value.normal_(std=0.1)
    return net.eval()


def _build(name: str, **kwargs) -> nn.Module:
    model_args = dict(NETWORKS[name][0])
    cfg = dict(
        type='upernet_ext.TimmBackbone',
        model_name=name,
        img_size=model_args.pop('img_size', None),
        model_args=model_args,
        **kwargs,
    )
    return build_backbone(cfg, in_channels=3, spatial_dims=2)[0]


def _load(net: nn.Module, weights: Mapping[str, Tensor], path) -> None:
    torch.save(dict(weights), path / 'weights.pth')
    load_pretrained(net, str(path / 'weights.pth'))


@networks
@torch.no_grad()
def test_published_names_load_and_give_timms_maps(name: str, tmp_path) -> None:
    import timm

    arguments, channels, strides = NETWORKS[name]
    classifier = _randomise(timm.create_model(name, **arguments))
    ours = _build(name)
    _load(ours, classifier.state_dict(), tmp_path)
    levels = backbone_levels(ours, in_channels=3, spatial_dims=2)
    assert levels.channels == channels
    assert levels.strides == tuple((s, s) for s in strides)
    # Our quarters of a ViT's blocks, and all the levels of the others.
    indices = dict(out_indices=(1, 3, 5, 7)) if 'vit' in name else {}
    theirs = timm.create_model(
        name, features_only=True, **indices, **arguments
    ).eval()
    prefix = 'model.' if 'vit' in name else ''
    weights = {prefix + k: v for k, v in classifier.state_dict().items()}
    flat = {k.replace('.', '_', 1): v for k, v in weights.items()}
    theirs.load_state_dict(
        {k: (weights | flat)[k] for k in theirs.state_dict()}
    )
    x = torch.randn(1, 3, *SIZE)
    wanted = theirs(x)
    for mine, yours in zip(ours.eval()(x), wanted, strict=True):
        if mine.shape != yours.shape:  # channels last
            yours = yours.permute(0, 3, 1, 2)
        torch.testing.assert_close(mine, yours)


@networks
def test_every_parameter_gets_a_gradient(name: str) -> None:
    net = _build(name, gradient_checkpointing='hrnet' not in name).train()
    x = torch.randn(2, 3, *SIZE, requires_grad=True)
    sum(level.square().mean() for level in net(x)).backward()
    without = [n for n, p in net.named_parameters() if p.grad is None]
    assert not without


def test_another_networks_file_is_refused(tmp_path) -> None:
    import timm

    weights = timm.create_model('resnet34').state_dict()
    with pytest.raises(WeightsError, match=r'layer1\.2\.conv1\.weight'):
        _load(_build('resnet18'), weights, tmp_path)


@networks
def test_a_renamed_tensor_is_named(name: str, tmp_path) -> None:
    import timm

    weights = timm.create_model(name, **NETWORKS[name][0]).state_dict()
    net = _build(name)
    victim = list(net.names)[len(net.names) // 2]
    while 'num_batches' in victim or 'index' in victim:
        victim = list(net.names)[list(net.names).index(victim) + 1]
    weights[f'{victim}_'] = weights.pop(victim)
    with pytest.raises(WeightsError) as error:
        _load(net, weights, tmp_path)
    assert net.names[victim] in str(error.value)
    assert f'{victim}_' in str(error.value)


@pytest.mark.parametrize('name', ['resnet18', 'densenet121'])
@torch.no_grad()
def test_what_lies_behind_the_last_level_is_dropped(
    name: str, tmp_path
) -> None:
    import timm

    classifier = _randomise(timm.create_model(name, **NETWORKS[name][0]))
    whole, part = _build(name), _build(name, out_indices=(1, 2))
    for net in (whole, part):
        _load(net, classifier.state_dict(), tmp_path)
    size = [sum(p.numel() for p in n.parameters()) for n in (part, whole)]
    assert size[0] < size[1]
    x = torch.randn(1, 3, *SIZE)
    maps = whole.eval()(x)
    for mine, yours in zip(part.eval()(x), maps[1:3], strict=True):
        assert torch.equal(mine, yours)


@torch.no_grad()
def test_final_norm_of_a_vit_reaches_every_level() -> None:
    name = 'vit_tiny_patch16_224'
    net = _build(name, final_norm=True).eval()
    for level in net(torch.randn(1, 3, *SIZE)):
        mean = level.mean(1)
        torch.testing.assert_close(
            mean, torch.zeros_like(mean), rtol=0, atol=1e-5
        )
    assert not [k for k in _build(name).state_dict() if '.norm.' in k]
    with pytest.raises(ValueError, match='resnet18 is a pyramid'):
        _build('resnet18', final_norm=True)


def test_depth_of_a_vit_is_a_layer_a_block() -> None:
    net = _build('vit_tiny_patch16_224')
    assert net.get_layer_depth('model.pos_embed') == (0, 10)
    assert net.get_layer_depth('model.blocks.0.mlp.fc1.bias') == (1, 10)
    assert net.get_layer_depth('model.blocks.7.mlp.fc1.bias') == (8, 10)
    with pytest.raises(ValueError, match='leave layer_decay_rate out'):
        _build('densenet121').get_layer_depth('model.features_conv0.weight')


def test_a_segmentor_pads_to_whole_patches_and_keeps_the_size() -> None:
    net = MODELS.build(
        dict(
            type='upernet_ext.EncoderDecoder',
            backbone=dict(
                type='upernet_ext.TimmBackbone',
                model_name='vit_tiny_patch16_224',
                img_size=64,
                model_args=dict(depth=4, embed_dim=24, num_heads=2),
            ),
            neck=dict(type='upernet_ext.MultiLevelNeck', out_channels=8),
            decode_head=dict(type='upernet_ext.UPerHead', channels=8),
            num_classes=3,
        )
    ).eval()
    with torch.no_grad():
        logits = net.encode_decode(torch.randn(1, 3, 60, 50))
    assert logits.shape == (1, 3, 60, 50)


def test_an_unknown_name_is_refused() -> None:
    cfg = dict(type='upernet_ext.TimmBackbone', model_name='resnet81')
    with pytest.raises(ValueError, match="no model 'resnet81'; close ones"):
        build_backbone(cfg, in_channels=3, spatial_dims=2)


@pytest.mark.parametrize('name', ['resnet18', 'vit_tiny_patch16_224'])
def test_volumes_pass_slice_by_slice(name: str) -> None:
    cfg = dict(type='upernet_ext.TimmBackbone', model_name=name)
    if name.startswith('vit'):
        cfg['img_size'] = 64
    plane, _ = build_backbone(cfg, in_channels=1, spatial_dims=2)
    volume, _ = build_backbone(cfg, in_channels=1, spatial_dims=3)
    load_backbone(volume, plane.state_dict(), source='a file')
    plane.eval()
    volume.eval()
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        maps = volume(x.unsqueeze(2).repeat(1, 1, 5, 1, 1))
        for found, expected, stride in zip(
            maps, plane(x), volume.out_strides, strict=True
        ):
            assert found.shape[2] == -(-5 // stride[0])
            torch.testing.assert_close(
                found,
                expected.unsqueeze(2).expand_as(found),
                rtol=1e-4,
                atol=1e-4,
            )


def test_without_timm_the_error_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match='TimmBackbone needs timm'):
        _build('resnet18')
