"""Heads and necks equal mmsegmentation's, number for number.

In 3D the reference is the same 2D module: a kernel inflated at its centre, on
a volume of identical slices, computes the 2D map at every depth.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch
from mmseg.models import DepthwiseSeparableASPPHead
from mmseg.models import FCNHead as MMSegFCNHead
from mmseg.models import Feature2Pyramid as MMSegFeature2Pyramid
from mmseg.models import MultiLevelNeck as MMSegMultiLevelNeck
from mmseg.models import UPerHead as MMSegUPerHead
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from upernet_ext.layers import PPM
from upernet_ext.layers import rank as rank_module
from upernet_ext.models import (
    CrossEntropyLoss,
    DeepLabV3PlusHead,
    FCNHead,
    Feature2Pyramid,
    MultiLevelNeck,
    UPerHead,
)
from upernet_ext.models.decode_heads import uper_head
from upernet_ext.structures import GridData

CHANNELS = [12, 16, 20, 24]
SIZES = [(20, 28), (10, 14), (5, 7), (3, 4)]
LABELS = (80, 112)
DEPTHS = [6, 5, 4, 3]
LABEL_DEPTH = 7
BN = dict(type='BN')


def randomise(module: nn.Module) -> nn.Module:
    """Give norms statistics and affines that matter."""
    for name, value in module.state_dict().items():
        if 'running_var' in name:
            value.uniform_(0.5, 2)
        elif value.is_floating_point() and value.ndim == 1:
            value.normal_(1 if name.endswith('weight') else 0, 0.2)
        elif 'conv_seg.weight' in name:
            value.normal_(0, 0.5)
    return module


def inflate(weight: Tensor, like: Tensor) -> Tensor:
    """2D kernel -> 3D kernel that acts within each slice."""
    if weight.ndim != 4 or like.ndim != 5:
        return weight
    volume = torch.zeros_like(like)
    if like.shape[2] == 2:  # transposed: every depth tap makes one slice
        volume[:] = weight[:, :, None]
    else:
        volume[:, :, like.shape[2] // 2] = weight
    return volume


def deflate(gradient: Tensor, like: Tensor) -> Tensor:
    """Gradient of the inflated kernel -> gradient of the 2D kernel."""
    if gradient.ndim != 5 or like.ndim != 4:
        return gradient
    if gradient.shape[2] == 2:
        return gradient.sum(2)
    return gradient[:, :, gradient.shape[2] // 2]


def copy_weights(ours: nn.Module, theirs: nn.Module) -> None:
    own = ours.state_dict()
    ours.load_state_dict(
        {k: inflate(v, own[k]) for k, v in theirs.state_dict().items()}
    )


def maps(
    spatial_dims: int,
    channels: Sequence[int] = CHANNELS,
    sizes: Sequence[tuple[int, int]] = SIZES,
    depths: Sequence[int] = DEPTHS,
) -> tuple[list[Tensor], list[Tensor]]:
    """Random 2D maps, and the same as volumes of identical slices."""
    theirs = [
        torch.randn(2, c, *s, requires_grad=True)
        for c, s in zip(channels, sizes, strict=True)
    ]
    ours = [x.detach().clone().requires_grad_() for x in theirs]
    if spatial_dims == 3:
        ours = [
            x.detach()[:, :, None].repeat(1, 1, d, 1, 1).requires_grad_()
            for x, d in zip(theirs, depths, strict=True)
        ]
    return theirs, ours


def samples(labels: Tensor, spatial_dims: int) -> list[SegDataSample]:
    if spatial_dims == 3:
        labels = labels[:, None].repeat(1, LABEL_DEPTH, 1, 1)
    out = []
    for label in labels:
        sample = SegDataSample()
        sample.gt_sem_seg = GridData(data=label[None])
        out.append(sample)
    return out


def close(ours: Tensor, theirs: Tensor, name: str) -> None:
    # Gradients sum over thousands of pixels, and outputs of a classifier
    # without bound are large: the noise of fp32 is relative to the largest
    # entry, not to each.
    scale = max(0.1, theirs.detach().abs().max().item())
    torch.testing.assert_close(
        ours,
        theirs,
        rtol=1e-5,
        atol=1e-5 * scale,
        msg=lambda text: f'{name}: {text}',
    )


def every_slice(ours: Tensor, theirs: Tensor) -> Tensor:
    """Repeat a 2D map to the depth of a volume."""
    if ours.ndim == theirs.ndim:
        return theirs
    return theirs[:, :, None].expand_as(ours)


def assert_heads_equal(
    ours: nn.Module, theirs: nn.Module, spatial_dims: int, training: bool
) -> None:
    copy_weights(ours, randomise(theirs))
    ours.train(training)
    theirs.train(training)
    their_maps, our_maps = maps(spatial_dims)
    close(
        ours(our_maps),
        every_slice(ours(our_maps), theirs(their_maps)),
        'output',
    )
    labels = torch.randint(0, 5, (2, *LABELS))
    labels[:, :30] = 255
    their_losses = theirs.loss(their_maps, samples(labels, 2), None)
    our_losses = ours.loss(our_maps, samples(labels, spatial_dims), None)
    assert our_losses.keys() == their_losses.keys()
    close(our_losses['loss_ce'], their_losses['loss_ce'], 'loss')
    close(our_losses['acc_seg'], their_losses['acc_seg'][0], 'accuracy')
    their_losses['loss_ce'].backward()
    our_losses['loss_ce'].backward()
    for mine, yours in zip(our_maps, their_maps, strict=True):
        if yours.grad is None:  # a level that this head does not take
            assert mine.grad is None
            continue
        grad = mine.grad if mine.ndim == 4 else mine.grad.sum(2)
        close(grad, yours.grad, 'gradient of a map')
    reference = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        wanted = reference[name].grad
        close(deflate(parameter.grad, wanted), wanted, f'gradient of {name}')


def uper_heads(spatial_dims: int) -> tuple[nn.Module, nn.Module]:
    loss = dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True)
    theirs = MMSegUPerHead(
        in_channels=CHANNELS,
        channels=8,
        num_classes=5,
        in_index=[0, 1, 2, 3],
        norm_cfg=BN,
        pool_scales=(1, 2, 3),
        dropout_ratio=0,
        loss_decode=loss,
    )
    ours = UPerHead(
        CHANNELS,
        8,
        num_classes=5,
        spatial_dims=spatial_dims,
        norm_cfg=BN,
        pool_scales=(1, 2, 3),
        dropout_ratio=0,
    )
    return ours, theirs


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('spatial_dims', [2, 3])
def test_uper_head_equals_mmseg(spatial_dims: int, training: bool) -> None:
    assert_heads_equal(*uper_heads(spatial_dims), spatial_dims, training)


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('spatial_dims', [2, 3])
def test_deeplabv3plus_head_equals_mmseg(
    spatial_dims: int, training: bool
) -> None:
    common = dict(
        num_classes=5,
        dilations=(1, 2, 3, 6),
        c1_channels=4,
        norm_cfg=BN,
        dropout_ratio=0,
    )
    theirs = DepthwiseSeparableASPPHead(
        in_channels=CHANNELS[3],
        channels=8,
        in_index=3,
        c1_in_channels=CHANNELS[0],
        loss_decode=dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True),
        **common,
    )
    ours = DeepLabV3PlusHead(
        [CHANNELS[0], CHANNELS[3]],
        8,
        in_index=(0, 3),
        rates='fixed',
        spatial_dims=spatial_dims,
        **common,
    )
    assert_heads_equal(ours, theirs, spatial_dims, training)


@pytest.mark.parametrize('average', [False, True])
@pytest.mark.parametrize(
    'arguments',
    [
        dict(num_convs=1, concat_input=False),
        dict(num_convs=2, concat_input=True, dilation=2),
    ],
)
@pytest.mark.parametrize('spatial_dims', [2, 3])
def test_fcn_head_equals_mmseg(
    spatial_dims: int, arguments: dict, average: bool
) -> None:
    common = dict(
        num_classes=5, in_index=2, norm_cfg=BN, dropout_ratio=0, **arguments
    )
    kind = dict(loss_weight=0.4, avg_non_ignore=average)
    noisy = pytest.warns(UserWarning, match='avg_non_ignore')
    with nullcontext() if average else noisy:
        theirs = MMSegFCNHead(
            in_channels=20,
            channels=8,
            loss_decode=dict(type='mmseg.CrossEntropyLoss', **kind),
            **common,
        )
    ours = FCNHead(
        20,
        8,
        spatial_dims=spatial_dims,
        loss_decode=dict(type='upernet_ext.CrossEntropyLoss', **kind),
        **common,
    )
    assert_heads_equal(ours, theirs, spatial_dims, training=True)


def assert_necks_equal(
    ours: nn.Module, theirs: nn.Module, spatial_dims: int
) -> None:
    copy_weights(ours, randomise(theirs))
    # In eval mode: in front of a training batch norm a bias has gradient 0.
    ours.eval()
    theirs.eval()
    their_maps, our_maps = maps(
        spatial_dims, [12] * 4, [(6, 8)] * 4, depths=[4] * 4
    )
    expected, found = theirs(their_maps), ours(our_maps)
    for mine, yours in zip(found, expected, strict=True):
        close(mine, every_slice(mine, yours), 'level')
    sum((y**2).sum() for y in expected).backward()
    # The mean over slices makes the 3D loss the 2D one.
    sum(
        (y**2).sum() if y.ndim == 4 else (y**2).mean(2).sum() for y in found
    ).backward()
    for mine, yours in zip(our_maps, their_maps, strict=True):
        grad = mine.grad if mine.ndim == 4 else mine.grad.sum(2)
        close(grad, yours.grad, 'gradient of a map')
    reference = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        wanted = reference[name].grad
        close(deflate(parameter.grad, wanted), wanted, f'gradient of {name}')


@pytest.mark.parametrize('spatial_dims', [2, 3])
@pytest.mark.parametrize(
    'extra', [{}, dict(norm_cfg=BN, act_cfg=dict(type='ReLU'))]
)
def test_multilevel_neck_equals_mmseg(spatial_dims: int, extra: dict) -> None:
    scales = [4, 2, 1, 0.5]
    theirs = MMSegMultiLevelNeck([12] * 4, 8, scales=scales, **extra)
    ours = MultiLevelNeck(
        [12] * 4, 8, scales=scales, spatial_dims=spatial_dims, **extra
    )
    assert_necks_equal(ours, theirs, spatial_dims)


@pytest.mark.parametrize('spatial_dims', [2, 3])
@pytest.mark.parametrize('rescales', [(4, 2, 1, 0.5), (2, 1, 0.5, 0.25)])
def test_feature2pyramid_equals_mmseg(
    spatial_dims: int, rescales: tuple
) -> None:
    theirs = MMSegFeature2Pyramid(12, list(rescales), norm_cfg=BN)
    ours = Feature2Pyramid(
        [12] * 4, rescales, spatial_dims=spatial_dims, norm_cfg=BN
    )
    assert_necks_equal(ours, theirs, spatial_dims)


# One line of the head broken at a time: each must fail the parity test.


def _no_sum(self: UPerHead, lateral: Tensor, path: Tensor) -> Tensor:
    return lateral


def _swapped(self: UPerHead, features: Sequence[Tensor]) -> list[Tensor]:
    levels = PYRAMID(self, features)
    return [levels[0], levels[2], levels[1], levels[3]]


def _branch_missing(self: PPM, x: Tensor) -> list[Tensor]:
    outputs = POOLING(self, x)
    return [torch.zeros_like(outputs[0]), *outputs[1:]]


def _conv_before_sum(
    self: UPerHead, features: Sequence[Tensor]
) -> list[Tensor]:
    levels = [self._pool(features[-1])]
    for i in (2, 1, 0):
        level = self.fpn_convs[i](self.lateral_convs[i](features[i]))
        levels.insert(0, self._add(level, levels[0]))
    return levels


def _nearest(
    x: Tensor, size: Sequence[int], align_corners: bool = False
) -> Tensor:
    return torch.nn.functional.interpolate(x, tuple(size), mode='nearest')


def _ignores_nothing(
    self: CrossEntropyLoss, logits: Tensor, labels: Tensor, *rest: object
) -> tuple[Tensor, Tensor]:
    return LOSS(self, logits, labels.where(labels != 255, 0), *rest)


PYRAMID, POOLING = UPerHead._pyramid, PPM.pool
LOSS = CrossEntropyLoss.sums_and_gradient
MUTANTS = {
    'no top-down sum': (UPerHead, '_add', _no_sum),
    'swapped levels': (UPerHead, '_pyramid', _swapped),
    'missing PPM branch': (PPM, 'pool', _branch_missing),
    'conv before the sum': (UPerHead, '_pyramid', _conv_before_sum),
    'nearest instead of bilinear': (uper_head, 'resize', _nearest),
    'ignore_index forgotten': (
        *(CrossEntropyLoss, 'sums_and_gradient'),
        _ignores_nothing,
    ),
}


@pytest.mark.parametrize('spatial_dims', [2, 3])
@pytest.mark.parametrize('mutant', MUTANTS)
def test_parity_test_notices_mutant(
    mutant: str, spatial_dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    with pytest.raises(AssertionError):
        assert_heads_equal(
            *uper_heads(spatial_dims), spatial_dims, training=True
        )


def test_resize_equals_mmseg() -> None:
    from mmseg.models.utils import resize

    x = torch.randn(1, 2, 5, 7)
    for align in (False, True):
        expected = resize(
            x, (11, 20), mode='bilinear', align_corners=align, warning=False
        )
        assert torch.equal(rank_module.resize(x, (11, 20), align), expected)
