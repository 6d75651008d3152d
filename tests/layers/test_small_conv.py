"""torch's own convolution, in float64, is the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from upernet_ext.layers import small_conv
from upernet_ext.layers.rank import Conv3d


def check(conv: Conv3d, x: torch.Tensor) -> None:
    """Compare the result and all gradients."""
    x.requires_grad_()
    leaves = [x, *conv.parameters()]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    out = conv(x)
    wanted = F.conv3d(*exact, padding=conv.padding)
    g = torch.randn_like(out)
    pairs = zip(
        [out, *torch.autograd.grad(out, leaves, g)],
        [wanted, *torch.autograd.grad(wanted, exact, g.double())],
        strict=True,
    )
    for ours, theirs in pairs:
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(
            ours.double(), theirs, rtol=0, atol=1e-5 * scale
        )


@settings(deadline=None, max_examples=60)
@given(
    images=st.integers(1, 2),
    channels=st.sampled_from([1, 3, 40]),
    size=st.lists(st.integers(1, 9), min_size=3, max_size=3),
    kernel=st.lists(st.sampled_from([1, 3, 5]), min_size=3, max_size=3),
    bias=st.booleans(),
    many_weights=st.sampled_from([0, 2**21]),
)
def test_results_and_gradients_are_torchs(
    images: int,
    channels: int,
    size: list,
    kernel: list,
    bias: bool,
    many_weights: int,
) -> None:
    torch.manual_seed(0)
    padding = [k // 2 for k in kernel]
    conv = Conv3d(channels, 4, kernel, padding=padding, bias=bias)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_conv, '_MANY_WEIGHTS', many_weights)
        check(conv, torch.randn(images, channels, *size))


@pytest.mark.parametrize(
    'kwargs',
    [
        dict(kernel_size=2),
        dict(kernel_size=3, padding=1, stride=2),
        dict(kernel_size=3, padding=1, groups=2),
        dict(kernel_size=3, padding=2, dilation=2),
        dict(kernel_size=3),
        dict(kernel_size=3, padding='same'),
        dict(kernel_size=3, padding=1, padding_mode='reflect'),
    ],
)
def test_other_convolutions_are_torchs(kwargs: dict) -> None:
    conv = Conv3d(4, 6, **kwargs)
    usual = torch.nn.Conv3d(4, 6, **kwargs)
    usual.load_state_dict(conv.state_dict())
    x = torch.randn(1, 4, 6, 6, 6)
    torch.testing.assert_close(conv(x), usual(x), rtol=0, atol=0)


def test_large_kernels_of_few_voxels_are_not_copied() -> None:
    def way(images: int, channels: int, edge: int) -> str:
        conv = Conv3d(channels, 128, 3, padding=1, bias=False)
        x = torch.randn(images, channels, edge, edge, edge)
        return conv(x).grad_fn.name()

    for lean in ((1, 1024, 3), (4, 1024, 2)):
        assert way(*lean).startswith('Clone')
    for usual in ((2, 1024, 3), (1, 16, 3), (1, 1024, 4)):
        assert way(*usual).startswith('Convolution')


def test_autocast_convolves_in_bfloat16() -> None:
    conv = Conv3d(4, 4, 3, padding=1)
    with torch.autocast('cpu', torch.bfloat16):
        assert conv(torch.randn(1, 4, 8, 8, 8)).dtype == torch.bfloat16
