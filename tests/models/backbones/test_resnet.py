"""ResNet, ResNet V2, RegNet and Xception against timm, level by level."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from upernet_ext.models import RegNet, ResNet, ResNetV2, Xception
from upernet_ext.models.backbones.encoder import PyramidEncoder

SHORT = (1, 2, 1, 1)
# Ours, timm's name and what makes timm's as short.
PAIRS = {
    'resnet18': (partial(ResNet, 'resnet18'), 'resnet18', {}),
    'resnet50': (
        partial(ResNet, 'resnet50', SHORT),
        'resnet50',
        dict(layers=SHORT),
    ),
    'resnet50vc': (
        partial(ResNet, 'resnet50vc', SHORT),
        'resnet50c',
        dict(layers=SHORT),
    ),
    'resnet50vd': (
        partial(ResNet, 'resnet50vd', SHORT),
        'resnet50d',
        dict(layers=SHORT),
    ),
    'wide_resnet50_2': (
        partial(ResNet, 'wide_resnet50_2', SHORT),
        'wide_resnet50_2',
        dict(layers=SHORT),
    ),
    'seresnet18': (partial(ResNet, 'seresnet18'), 'seresnet18', {}),
    'seresnext50': (
        partial(ResNet, 'seresnext50', SHORT),
        'seresnext50_32x4d',
        dict(layers=SHORT),
    ),
    'resnet50v2': (
        partial(ResNetV2, 'resnet50v2', SHORT),
        'resnetv2_50',
        dict(layers=SHORT),
    ),
    'regnetx_002': (partial(RegNet, 'regnetx_002'), 'regnetx_002', {}),
    'regnety_002': (partial(RegNet, 'regnety_002'), 'regnety_002', {}),
}
# Small ones of each class, that can be dilated and built in 3D.
SMALL = {
    'resnet': partial(ResNet, 'seresnet18', (1, 1, 1, 1), base_channels=8),
    'resnetv2': partial(ResNetV2, depths=(1, 1, 1, 1), base_channels=8),
    'resnetvd': partial(ResNet, 'resnet50vd', (1, 1, 1, 1), base_channels=8),
    'regnet': partial(RegNet, 'regnety_002'),
    'xception': Xception,
}


def _randomise(net: nn.Module) -> nn.Module:
    for name, value in net.state_dict().items():
        if 'running_var' in name:
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            fan = value[0].numel() if value.ndim > 1 else 4
            value.normal_(std=fan**-0.5)
    return net.eval()


def timm_levels(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    # The last of ResNet V2 has passed its final norm.
    return net.forward_intermediates(x, norm=True, intermediates_only=True)


def _assert_same(ours: nn.Module, wanted: list, x: torch.Tensor) -> None:
    maps = ours(x)
    assert len(maps) == len(wanted) == 5
    for level, (mine, yours) in enumerate(zip(maps, wanted, strict=True)):
        torch.testing.assert_close(
            mine, yours, msg=lambda m, level=level: f'level {level}: {m}'
        )


def twins(name: str, output_stride: int) -> tuple[nn.Module, nn.Module]:
    """Build ours and timm's with the same random weights."""
    import timm

    build, twin, kwargs = PAIRS[name]
    theirs = timm.create_model(twin, output_stride=output_stride, **kwargs)
    _randomise(theirs)
    ours = build(output_stride=output_stride).eval()
    weights = theirs.state_dict()
    ours.load_state_dict({k: weights[k] for k in ours.state_dict()})
    return ours, theirs


@pytest.mark.needs_torchvision
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('output_stride', [32, 16, 8])
@pytest.mark.parametrize('name', PAIRS)
@torch.no_grad()
def test_every_level_is_timms(name: str, output_stride: int) -> None:
    ours, theirs = twins(name, output_stride)
    x = torch.randn(1, 3, 70, 100)
    _assert_same(ours, timm_levels(theirs, x), x)
    strides = [s[0] for s in ours.out_strides]
    assert strides == [min(s, output_stride) for s in (2, 4, 8, 16, 32)]


@pytest.mark.needs_torchvision
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@torch.no_grad()
def test_every_level_of_xception_is_timms() -> None:
    import timm

    theirs = _randomise(timm.create_model('legacy_xception'))
    weights = theirs.state_dict()
    ours = Xception().eval()
    own = ours.state_dict()
    assert {k: v.shape for k, v in own.items()} == {
        k: v.shape for k, v in weights.items() if not k.startswith('fc.')
    }
    ours.load_state_dict({k: weights[k] for k in own})
    wanted = []
    for info in theirs.feature_info:
        theirs.get_submodule(info['module']).register_forward_hook(
            lambda module, inputs, output: wanted.append(output.clone())
        )
    x = torch.randn(1, 3, 70, 100)
    theirs.forward_features(x)
    _assert_same(ours, wanted, x)
    assert [m.shape[-2:] for m in wanted] == [
        *((32, 47), (16, 24), (8, 12), (4, 6), (2, 3))
    ]


@pytest.mark.needs_torchvision
def test_xceptions_entry_agrees_with_timms_card() -> None:
    import timm

    from upernet_ext.models.backbones.xception import ENCODERS

    card = timm.models.get_pretrained_cfg('legacy_xception.tf_in1k')
    entry = ENCODERS['xception']
    assert entry.weights == card.url
    assert entry.mean == pytest.approx([255 * m for m in card.mean])
    assert entry.std == pytest.approx([255 * s for s in card.std])


@pytest.mark.parametrize('output_stride', [16, 8])
@pytest.mark.parametrize('name', ['resnet', 'resnetv2', 'regnet', 'xception'])
@torch.no_grad()
def test_dilation_computes_what_striding_does_and_more(
    name: str, output_stride: int
) -> None:
    build = SMALL[name]
    if name in ('resnet', 'regnet'):
        # A squeeze averages over more pixels: not the same weights.
        arch = {'resnet': 'resnet18', 'regnet': 'regnetx_002'}[name]
        build = partial(build.func, arch, **build.keywords)
    strided = _randomise(build(spatial_dims=3, in_channels=1))
    dilated = build(
        spatial_dims=3, in_channels=1, output_stride=output_stride
    ).eval()
    dilated.load_state_dict(strided.state_dict())
    x = torch.randn(1, 1, 40, 70, 52)
    levels = zip(strided(x), dilated(x), strict=True)
    for level, (coarse, fine) in enumerate(levels):
        step = max(2 ** (level + 1) // output_stride, 1)
        torch.testing.assert_close(fine[..., ::step, ::step, ::step], coarse)


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_a_volume_of_equal_slices_is_its_slice(name: str) -> None:
    flat = _randomise(SMALL[name]())
    deep = SMALL[name](spatial_dims=3).eval()
    own = flat.state_dict()
    assert deep.state_dict().keys() == own.keys()
    # Only the middle tap of the third axis counts.
    for key, value in deep.state_dict().items():
        if value.ndim == own[key].ndim:
            value.copy_(own[key])
        else:
            value.zero_()[:, :, value.shape[2] // 2] = own[key]
    x = torch.randn(1, 3, 64, 96)
    volume = x[:, :, None].expand(-1, -1, 64, -1, -1)
    for plane, space in zip(flat(x), deep(volume), strict=True):
        middle = space[:, :, space.shape[2] // 2]
        # Kernels of the two ranks add in other orders, layer upon layer.
        torch.testing.assert_close(middle, plane, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', SMALL)
@pytest.mark.parametrize('spatial_dims', [2, 3])
def test_checkpointing_changes_no_gradient(
    name: str, spatial_dims: int
) -> None:
    shared = dict(
        in_channels=1, spatial_dims=spatial_dims, norm_cfg=dict(type='IN')
    )
    size = [64, *[40] * (spatial_dims - 1)]
    first, second = (
        SMALL[name](**shared, gradient_checkpointing=on)
        for on in (False, True)
    )
    second.load_state_dict(first.state_dict())
    x = torch.randn(1, 1, *size)
    entered = []
    for net in (first, second):
        block = next(b for b in net.modules() if type(b).__name__ == 'Block')
        block.register_forward_pre_hook(lambda b, _: entered.append(b))
        sum(m.square().mean() for m in net.train()(x)).backward()
    # The second net enters its block once more, in backward.
    assert len(entered) == 3
    assert entered[1] is entered[2]
    twin = dict(second.named_parameters())
    for key, parameter in first.named_parameters():
        assert parameter.grad is not None, key
        torch.testing.assert_close(parameter.grad, twin[key].grad)


@pytest.mark.parametrize('name', SMALL)
@torch.no_grad()
def test_stages_behind_the_last_level_are_not_built(name: str) -> None:
    whole = _randomise(SMALL[name]())
    part = SMALL[name](out_indices=(0, 2)).eval()
    own, weights = part.state_dict(), whole.state_dict()
    left = [k for k in weights if k not in own]
    assert left
    # What is left belongs to the two last of four stages, and is known.
    assert {whole.get_layer_depth(k) for k in left} == {(3, 6), (4, 6)}
    assert {part.get_layer_depth(k) for k in own} == {(0, 6), (1, 6), (2, 6)}
    assert all(k.startswith(part.unused_pretrained_keys) for k in left)
    assert not any(k.startswith(part.unused_pretrained_keys) for k in own)
    part.load_state_dict({k: weights[k] for k in own})
    x = torch.randn(1, 3, 64, 80)
    maps = whole(x)
    for mine, yours in zip(part(x), (maps[0], maps[2]), strict=True):
        assert torch.equal(mine, yours)
    assert part.out_channels == (maps[0].shape[1], maps[2].shape[1])


@pytest.mark.parametrize('name', ['resnet', 'resnetv2', 'regnet'])
def test_stochastic_depth_rises_to_the_rate(name: str) -> None:
    net = SMALL[name](drop_path_rate=0.3)
    rates = [
        getattr(m.drop_path, 'drop_prob', 0.0)
        for m in net.modules()
        if hasattr(m, 'drop_path')
    ]
    wanted = torch.linspace(0, 0.3, len(rates)).tolist()
    assert rates == pytest.approx(wanted)
    assert len(rates) > 3


@pytest.mark.parametrize('name', ['resnet', 'resnetvd', 'regnet'])
def test_blocks_start_as_their_shortcut(name: str) -> None:
    net = SMALL[name]()
    net.init_weights()
    block = next(b for b in net.modules() if hasattr(b, 'last_norm'))
    x = torch.randn(2, net.out_channels[0], 8, 8)
    torch.testing.assert_close(block(x), block.downsample(x).relu())


def test_initialisation_keeps_the_variance_of_a_group() -> None:
    net = ResNet('resnext50', (1, 1, 1, 1))
    net.init_weights()
    weight = net.layer1[0].conv2.weight  # 32 groups of 4 channels
    assert weight.std().item() == pytest.approx((2 / 36) ** 0.5, rel=0.05)


@pytest.mark.parametrize('build', [ResNet, ResNetV2, RegNet, Xception])
def test_wrong_names_are_told(build: Callable[..., PyramidEncoder]) -> None:
    with pytest.raises(ValueError, match="no arch 'resnet51'"):
        build('resnet51')
    with pytest.raises(ValueError, match='output_stride=4 must be 8, 16'):
        build(output_stride=4)
