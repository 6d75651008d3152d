"""EfficientNet, Lite, V2 and MobileNetV2 against timm, in 2D and 3D."""

import math

import pytest
import torch
from torch import nn

from upernet_ext.models import EfficientNet

TENSORFLOW = dict(padding='same', norm_cfg=dict(type='BN', eps=1e-3))
# (timm's name, ours, arguments of both, more of ours): one network a family.
NETWORKS = [
    ('efficientnet_b0', 'efficientnet_b0', {}, {}),
    ('tf_efficientnet_b0', 'efficientnet_b0', {}, TENSORFLOW),
    ('efficientnet_lite0', 'efficientnet_lite0', {}, {}),
    ('tf_efficientnetv2_b0', 'efficientnet_v2_b0', {}, TENSORFLOW),
    ('mobilenetv2_050', 'mobilenetv2_050', {}, {}),
    ('mobilenetv2_050', 'mobilenetv2_050', dict(output_stride=8), {}),
]
# The cheapest network of each kind of block.
TINY = [
    dict(arch='efficientnet_b0', width=0.25, depth=0.3),
    dict(arch='efficientnet_v2_b0', width=0.25, depth=0.2, padding='same'),
    dict(arch='mobilenetv2_100', width=0.2, depth=0.3),
]
tiny = pytest.mark.parametrize('cfg', TINY, ids=lambda cfg: cfg['arch'])


def _randomise(net: nn.Module) -> nn.Module:
    for name, value in net.state_dict().items():
        if 'running_var' in name or name.endswith(
            ('bn1.weight', 'bn2.weight')
        ):
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            fan = value[0].numel() if value.ndim > 1 else 4
            value.normal_(std=fan**-0.5)
    return net.eval()


@pytest.mark.needs_torchvision
@pytest.mark.parametrize(
    ('name', 'arch', 'shared', 'more'),
    NETWORKS,
    ids=lambda value: value if isinstance(value, str) else '',
)
@torch.no_grad()
def test_every_level_is_timms(
    name: str, arch: str, shared: dict, more: dict
) -> None:
    import timm

    theirs = timm.create_model(name, features_only=True, **shared)
    _randomise(theirs)
    ours = EfficientNet(arch, **shared, **more).eval()
    ours.load_state_dict(theirs.state_dict())
    # Even and odd halves: SAME padding differs.
    x = torch.randn(1, 3, 64, 90)
    for mine, yours in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(mine, yours)
    assert list(ours.out_channels) == theirs.feature_info.channels()
    strides = [(s, s) for s in theirs.feature_info.reduction()]
    assert list(ours.out_strides) == strides


@tiny
@torch.no_grad()
def test_a_volume_of_equal_slices_gives_the_maps_of_one(cfg: dict) -> None:
    flat = _randomise(EfficientNet(**cfg))
    deep = EfficientNet(**cfg, spatial_dims=3).eval()
    weights = flat.state_dict()
    for name, value in deep.state_dict().items():
        if value.ndim == 5:
            # Only the middle slice of each kernel has weights.
            value.zero_()
            value[:, :, value.shape[2] // 2] = weights[name]
        else:
            value.copy_(weights[name])
    x = torch.randn(1, 3, 64, 42)
    volume = x[:, :, None].expand(-1, -1, 32, -1, -1)
    for mine, yours in zip(deep(volume), flat(x), strict=True):
        depth = mine.shape[2]
        wanted = yours[:, :, None].expand(-1, -1, depth, -1, -1)
        # The squeeze's mean is over more pixels: other rounding.
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


@tiny
def test_checkpointing_changes_no_gradient_in_3d(cfg: dict) -> None:
    # Batch statistics would be counted twice: group norms.
    more = dict(in_channels=1, spatial_dims=3, norm_cfg=dict(type='GN'))
    nets = [
        EfficientNet(**cfg, **more, gradient_checkpointing=on)
        for on in (False, True)
    ]
    nets[1].load_state_dict(nets[0].state_dict())
    x = torch.randn(1, 1, 32, 32, 40)
    for net in nets:
        sum(m.square().mean() for m in net.train()(x)).backward()
    first, second = (dict(net.named_parameters()) for net in nets)
    for name, parameter in first.items():
        assert parameter.grad is not None, name
        torch.testing.assert_close(parameter.grad, second[name].grad)


@torch.no_grad()
def test_stages_behind_the_last_level_are_not_built() -> None:
    whole = _randomise(EfficientNet(**TINY[0]))
    part = EfficientNet(**TINY[0], out_indices=(1, 3)).eval()
    assert part.out_strides == ((4, 4), (16, 16))
    own, weights = part.state_dict(), whole.state_dict()
    left = [k for k in weights if k not in own]
    assert {k.split('.')[1] for k in left} == {'5', '6'}
    assert all(k.startswith(part.unused_pretrained_keys) for k in left)
    part.load_state_dict({k: weights[k] for k in own})
    x = torch.randn(1, 3, 64, 64)
    maps = whole(x)
    for mine, yours in zip(part(x), (maps[1], maps[3]), strict=True):
        assert torch.equal(mine, yours)


@pytest.mark.needs_torchvision
def test_drop_path_rises_as_timms() -> None:
    import timm

    theirs = timm.create_model('mobilenetv2_050', drop_path_rate=0.2)
    ours = EfficientNet('mobilenetv2_050', drop_path_rate=0.2)
    rates = {}
    for net in (ours, theirs):
        rates[net] = [
            getattr(block, 'drop_path', None)
            for stage in net.blocks
            for block in stage
        ]
    compared = 0
    for mine, yours in zip(rates[ours], rates[theirs], strict=True):
        if mine is not None:  # it is there only around a shortcut
            assert mine.drop_prob == pytest.approx(yours.drop_prob)
            compared += 1
    assert compared == 10


def test_initialisation() -> None:
    net = EfficientNet('efficientnet_b0', spatial_dims=3)
    net.init_weights()
    for name, value in net.named_parameters():
        if value.ndim == 5 and value.numel() > 10000:
            taps = math.prod(value.shape[2:])
            groups = value.shape[0] if 'conv_dw' in name else 1
            fan_out = value.shape[0] * taps // groups
            wanted = math.sqrt(2 / fan_out)
            assert value.std().item() == pytest.approx(wanted, rel=0.05), name


def test_depth_is_a_layer_a_stage() -> None:
    net = EfficientNet(**TINY[0], out_indices=(0, 1))
    assert net.get_layer_depth('bn1.bias') == (0, 9)
    assert net.get_layer_depth('blocks.1.0.conv_pw.weight') == (2, 9)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="no arch 'b0'"):
        EfficientNet('b0')
    with pytest.raises(ValueError, match="no padding 'valid'"):
        EfficientNet(padding='valid')
    with pytest.raises(ValueError, match='no output_stride 4'):
        EfficientNet(output_stride=4)
