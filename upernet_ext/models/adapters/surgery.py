"""Turn the layers of a 2D network into layers of a network for volumes.

Layer by layer, and by exact type only: a subclass of a convolution (with
padding of its own, with standardised weights) would run and be wrong, so what
is not listed is refused by name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ...interop.inflate import inflate
from ...layers import norms, rank
from ...layers.channel_norm import ChannelLayerNorm, GlobalResponseNorm
from ...layers.linear import Linear


class ACSConv(nn.Conv2d):
    """A 2D convolution that looks at the three planes of a volume.

    A third of the output channels each sees the axial, the coronal and the
    sagittal plane; parameters are those of the 2D convolution. Where the
    kernel is as large as the stride (patches), what is no plane's axis is
    averaged. Paper: https://arxiv.org/abs/1911.10477, section 3.1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``(N, C, D, H, W)``."""
        settings = ((n[0],) * 3 for n in (self.stride, self.padding))
        stride, padding = settings
        dilation = (self.dilation[0],) * 3
        return F.conv3d(
            x,
            self.volume_kernel(),
            self.bias,
            stride,
            padding,
            dilation,
            self.groups,
        )

    def volume_kernel(self) -> Tensor:
        """Put each third of the kernels into its plane of a cube."""
        edge = self.kernel_size[0]
        cubes = []
        for axis, planes in enumerate(self.weight.tensor_split(3), 2):
            cube = planes.unsqueeze(axis)
            if self.kernel_size == self.stride:
                cube = cube.repeat_interleave(edge, axis) / edge
            else:
                pads = [0] * 6
                pads[2 * (4 - axis) : 2 * (5 - axis)] = [edge // 2] * 2
                cube = F.pad(cube, pads)
            cubes.append(cube)
        return torch.cat(cubes)


def _settings(layer: nn.Conv2d) -> dict:
    """Say how to build a convolution like this one, of any rank.

    Raises:
        ValueError: It is not the same along both axes.
    """
    names = ('kernel_size', 'stride', 'padding', 'dilation')
    values = {name: getattr(layer, name) for name in names}
    edge, stride = layer.kernel_size[0], layer.stride[0]
    uneven = any(len(set(v)) > 1 for v in values.values())
    if (
        uneven
        or layer.padding_mode != 'zeros'
        or edge % 2 == 0 != edge - stride
    ):
        raise ValueError(
            f'{layer} cannot become a convolution of volumes: only square '
            'kernels of odd size, or as large as their stride, with zeros '
            "around; use adapter='slicewise'"
        )
    return dict(
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        groups=layer.groups,
        bias=layer.bias is not None,
        **{name: value[0] for name, value in values.items()},
    )


def _inflated(layer: nn.Conv2d) -> nn.Module:
    new = rank.conv(spatial_dims=3, **_settings(layer))
    weights, _ = inflate(layer.state_dict(), new)
    new.load_state_dict(weights)
    return new


def _in_planes(layer: nn.Conv2d) -> nn.Module:
    new = ACSConv(**_settings(layer))
    new.load_state_dict(layer.state_dict())
    return new


def _batch_norm(layer: nn.BatchNorm2d) -> nn.Module:
    new = norms.BatchNorm3d(
        layer.num_features,
        eps=layer.eps,
        momentum=layer.momentum,
        affine=layer.affine,
        track_running_stats=layer.track_running_stats,
    )
    new.load_state_dict(layer.state_dict())
    return new


def _cube(value: int | Sequence[int]) -> tuple[int, int, int]:
    return (value if isinstance(value, int) else value[0],) * 3


def _max_pool(layer: nn.MaxPool2d) -> nn.Module:
    return nn.MaxPool3d(
        _cube(layer.kernel_size),
        _cube(layer.stride),
        _cube(layer.padding),
        _cube(layer.dilation),
        ceil_mode=layer.ceil_mode,
    )


def _avg_pool(layer: nn.AvgPool2d) -> nn.Module:
    if max(_cube(layer.padding)) and layer.count_include_pad:
        raise ValueError(
            f'{layer} counts the zeros around the map, which would dim the '
            "first and the last slice; use adapter='slicewise'"
        )
    return nn.AvgPool3d(
        _cube(layer.kernel_size),
        _cube(layer.stride),
        _cube(layer.padding),
        layer.ceil_mode,
        layer.count_include_pad,
    )


def _global_pool(layer: nn.AdaptiveAvgPool2d) -> nn.Module:
    if layer.output_size not in (1, (1, 1)):
        raise ValueError(f'{layer} does not pool to a single value')
    return nn.AdaptiveAvgPool3d(1)


def _same(layer: nn.Module) -> nn.Module:
    return layer


# Exact type -> what becomes of it, apart from convolutions.
LAYERS: Mapping[type[nn.Module], Callable[[nn.Module], nn.Module]] = {
    nn.BatchNorm2d: _batch_norm,
    norms.BatchNorm2d: _batch_norm,
    nn.MaxPool2d: _max_pool,
    nn.AvgPool2d: _avg_pool,
    nn.AdaptiveAvgPool2d: _global_pool,
    # These work for every rank.
    **{
        cls: _same
        for cls in (
            *(nn.SyncBatchNorm, nn.GroupNorm, norms.GroupNorm, DropPath),
            *(ChannelLayerNorm, GlobalResponseNorm, nn.LayerNorm),
            *(nn.Linear, Linear),
            *(nn.Identity, nn.Dropout),
            *(nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Hardswish),
        )
    },
}
_PACKAGE = __name__.split('.')[0]
_CONVS = dict(inflate=_inflated, acs=_in_planes)


def _is_container(module: nn.Module) -> bool:
    own = [
        *module.parameters(recurse=False),
        *module.buffers(recurse=False),
    ]
    # Ours are written for every rank.
    ours = type(module).__module__.startswith(f'{_PACKAGE}.')
    return any(True for _ in module.children()) and (ours or not own)


def to_volumes(
    network: nn.Module, adapter: Literal['inflate', 'acs']
) -> nn.Module:
    """Let a 2D network take volumes, by other layers under the same names.

    Args:
        network: Made of the layers in ``LAYERS`` and of 2D convolutions,
            whose forward does not name the axes; changed in place.
        adapter: What becomes of the convolutions: kernels of a volume with
            the 2D ones in their middle, or ``ACSConv``.

    Returns:
        The network.

    Raises:
        ValueError: Some layer is of another type, or has settings that have
            no counterpart.
    """
    table = {**LAYERS, nn.Conv2d: _CONVS[adapter]}
    unknown = {
        f'{type(module).__module__}.{type(module).__name__} ({name})'
        for name, module in network.named_modules()
        if type(module) not in table and not _is_container(module)
    }
    if unknown:
        raise ValueError(
            f'adapter={adapter!r} cannot turn these layers of '
            f'{type(network).__name__} into layers of volumes: '
            f"{', '.join(sorted(unknown)[:8])}; use adapter='slicewise'"
        )
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) in table:
                setattr(module, name, table[type(child)](child))
    return network
