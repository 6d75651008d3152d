import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from upernet_ext.models import FCNHead, UPerHead
from upernet_ext.models.decode_heads import ProgressiveUpsampler

IMAGE, VOLUME = (5, 7), (3, 4, 2)
SIZES = {2: IMAGE, 3: VOLUME}
NORM = dict(type='GN', num_groups=2)


def plain(x, weights, groups):
    """The stages, written out."""
    mode = {4: 'bilinear', 5: 'trilinear'}[x.ndim]
    convolve = {4: F.conv2d, 5: F.conv3d}[x.ndim]
    for stage in range(2):
        x = F.interpolate(x, scale_factor=2, mode=mode)
        for place in (1, 3):
            conv = weights[f'{stage}.{place}.conv.weight']
            scale, shift = (
                weights[f'{stage}.{place}.gn.{n}'] for n in ('weight', 'bias')
            )
            x = F.group_norm(
                convolve(x, conv, padding=1), groups, scale, shift
            )
            x = F.relu(x)
    return x


@pytest.mark.parametrize('spatial_dims', [2, 3])
@pytest.mark.parametrize('num_groups', [None, 2])
def test_two_stages_are_what_is_written(spatial_dims, num_groups):
    upsampler = ProgressiveUpsampler(
        4, spatial_dims=spatial_dims, num_groups=num_groups
    ).eval()
    for name, parameter in upsampler.named_parameters():
        if 'gn' in name:
            nn.init.normal_(parameter)
    x = torch.randn(2, 4, *SIZES[spatial_dims])
    expected = plain(x, upsampler.state_dict(), num_groups or 4)
    torch.testing.assert_close(upsampler(x), expected, rtol=1e-5, atol=1e-5)
    assert expected.shape[2:] == tuple(4 * s for s in SIZES[spatial_dims])


def test_keys_are_equal_in_every_rank():
    keys = [
        list(ProgressiveUpsampler(4, spatial_dims=d).state_dict())
        for d in (2, 3)
    ]
    assert keys[0] == keys[1]
    assert len(keys[0]) == 2 * 2 * 3


def test_whole_channels_are_dropped_in_training():
    upsampler = ProgressiveUpsampler(64, num_stages=1, dropout_ratio=0.5)
    seen = []
    upsampler[0][2].register_forward_hook(lambda m, i, out: seen.append(out))
    upsampler.train()(torch.randn(1, 64, 4, 4))
    zero = (seen[0] == 0).flatten(2).all(2)
    assert 10 < zero.sum() < 54
    upsampler.eval()(torch.randn(1, 64, 4, 4))
    assert (seen[1] == 0).flatten(2).all(2).sum() < 3


@pytest.mark.parametrize('spatial_dims', [2, 3])
def test_a_classifier_commutes_with_the_resize(spatial_dims):
    """So logits are made before the last resize, at a 1/16 of the memory."""
    head = UPerHead(
        [4, 4],
        4,
        num_classes=3,
        spatial_dims=spatial_dims,
        dropout_ratio=0.0,
        norm_cfg=NORM,
        upsampler=dict(),
    ).eval()
    nn.init.normal_(head.conv_seg.weight)
    nn.init.normal_(head.conv_seg.bias)
    size = SIZES[spatial_dims]
    maps = [torch.randn(2, 4, *size) for _ in range(2)]
    seen = []
    head.upsampler.register_forward_hook(lambda m, i, out: seen.append(out))
    logits = head(maps)
    mode = {2: 'bilinear', 3: 'trilinear'}[spatial_dims]
    whole = [7 * s for s in size]
    late = head.conv_seg(F.interpolate(seen[0], whole, mode=mode))
    early = F.interpolate(logits, whole, mode=mode)
    torch.testing.assert_close(early, late, rtol=1e-5, atol=1e-5)
    assert logits.shape[2:] == tuple(4 * s for s in size)


def test_every_head_takes_it_and_none_has_it_unasked():
    kwargs = dict(num_classes=2, channels=4, norm_cfg=NORM)
    head = FCNHead(4, **kwargs, in_index=0, upsampler=dict(num_stages=1))
    assert head([torch.randn(1, 4, 3, 5)]).shape == (1, 2, 6, 10)
    without = FCNHead(4, **kwargs, in_index=0)
    assert without([torch.randn(1, 4, 3, 5)]).shape == (1, 2, 3, 5)
    assert not [n for n in without.state_dict() if 'upsampler' in n]
