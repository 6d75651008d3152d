"""Norms over channels, in 2D and 3D."""

import pytest
import torch

from upernet_ext.layers.channel_norm import (
    ChannelLayerNorm,
    GlobalResponseNorm,
)

SIZES = pytest.mark.parametrize('size', [(5, 7), (3, 5, 7)])


@SIZES
def test_layer_norm_of_every_pixel(size: tuple[int, ...]) -> None:
    norm = ChannelLayerNorm(6, eps=0.1)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 6, *size)
    shape = (1, 6, *[1] * len(size))
    mean = x.mean(1, keepdim=True)
    var = x.var(1, keepdim=True, correction=0)
    wanted = (x - mean) / (var + 0.1).sqrt()
    wanted = wanted * norm.weight.view(shape) + norm.bias.view(shape)
    torch.testing.assert_close(norm(x), wanted)


@SIZES
def test_response_norm_as_the_paper_writes_it(size: tuple[int, ...]) -> None:
    first = GlobalResponseNorm(6)
    last = GlobalResponseNorm(6, channel_axis=-1)
    x = torch.randn(2, 6, *size)
    assert torch.equal(first(x), x)  # starts as the identity
    torch.nn.init.normal_(first.weight)
    torch.nn.init.normal_(first.bias)
    last.load_state_dict(first.state_dict())
    energy = x.flatten(2).square().sum(2).sqrt()
    share = energy / (energy.mean(1, keepdim=True) + 1e-6)
    shape = (*x.shape[:2], *[1] * len(size))
    gain = 1 + (first.weight * share).view(shape)
    wanted = x * gain + first.bias.view(1, *shape[1:])
    torch.testing.assert_close(first(x), wanted)
    again = last(x.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(again, wanted)
