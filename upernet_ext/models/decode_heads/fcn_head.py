"""A plain convolutional head, used as auxiliary head.

Paper: Fully Convolutional Networks, https://arxiv.org/abs/1411.4038.
Function and parameter names are mmsegmentation's
(mmseg/models/decode_heads/fcn_head.py).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ...registry import MODELS
from .decode_head import DecodeHead


@MODELS.register_module()
class FCNHead(DecodeHead):
    """Convolutions on one level, then the classifier.

    Args:
        in_channels: Channels of the level.
        channels: Channels of the head.
        num_convs: Convolutions before the classifier; 0 for none.
        kernel_size: Odd edge of their kernels.
        concat_input: Put the input beside the result and fuse both.
        dilation: Distance between the kernels' taps, in pixels.
        **kwargs: To ``DecodeHead``: ``num_classes``, ``spatial_dims``,
            ``in_index``, ``norm_cfg``, ``loss_decode``, ...
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        num_convs: int = 2,
        kernel_size: int = 3,
        concat_input: bool = True,
        dilation: int = 1,
        **kwargs,
    ) -> None:
        super().__init__(in_channels, channels, **kwargs)
        if num_convs == 0 and self.in_channels != channels:
            raise ValueError(
                f'FCNHead without convolutions classifies its input: channels '
                f'must be in_channels={self.in_channels}, got {channels}'
            )
        widths = [self.in_channels] + [channels] * (num_convs - 1)
        convs = [
            self._conv(width, kernel_size, dilation=dilation)
            for width in widths[:num_convs]
        ]
        self.convs = nn.Sequential(*convs) if convs else nn.Identity()
        self.concat_input = concat_input
        if concat_input:
            self.conv_cat = self._conv(
                self.in_channels + channels, kernel_size
            )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return logits ``(N, num_classes, *S)`` at the level's size."""
        x = self._transform_inputs(inputs)
        features = self.convs(x)
        if self.concat_input:
            features = self.conv_cat(torch.cat([x, features], dim=1))
        return self.cls_seg(features)
