"""Norms over the channels of a map of any rank.

Source of the global response norm: ConvNeXt V2, section 3.2,
https://arxiv.org/abs/2301.00808.
"""

import torch
from torch import Tensor, nn


class ChannelLayerNorm(nn.LayerNorm):
    """``nn.LayerNorm`` over axis 1 of ``(N, C, *S)``.

    Args:
        channels: C.
        eps: Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise every pixel of ``(N, C, *S)``."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class GlobalResponseNorm(nn.Module):
    """Let the channels of an image compete by their energy.

    A channel's energy is its L2 norm over the pixels, divided by the mean
    energy of all channels.

    Args:
        channels: C.
        channel_axis: 1 for ``(N, C, *S)``, -1 for ``(N, *S, C)``.
        eps: Added to the mean energy.
    """

    def __init__(
        self, channels: int, *, channel_axis: int = 1, eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.channel_axis = channel_axis
        self.eps = eps
        self.weight = nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the shape of ``x``."""
        axis = self.channel_axis % x.ndim
        pixels = [i for i in range(1, x.ndim) if i != axis]
        energy = torch.linalg.vector_norm(x, dim=pixels, keepdim=True)
        scale = energy / (energy.mean(axis, keepdim=True) + self.eps)
        shape = [-1 if i == axis else 1 for i in range(x.ndim)]
        return x + self.bias.view(shape) + self.weight.view(shape) * x * scale
