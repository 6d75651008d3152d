"""What the ResNets, RegNets and their kin share."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from ...layers.rank import avg_pool, conv
from .encoder import PyramidEncoder, select_levels

_Arch = TypeVar('_Arch')


def find_arch(
    network: str, arch: str, architectures: Mapping[str, _Arch]
) -> _Arch:
    """Look an arch up.

    Raises:
        ValueError: It is not there; names those that are.
    """
    if arch not in architectures:
        raise ValueError(
            f'{network} has no arch {arch!r}; choose one of '
            f'{sorted(architectures)}'
        )
    return architectures[arch]


class StagePlan(NamedTuple):
    """How a stage halves the map, or keeps its size and dilates.

    Attributes:
        stride: Of the first block.
        first_dilation: Of the first block's strided convolution, which still
            sees the map of the stage before.
        dilation: Of all other convolutions of the stage.
        out_stride: Pixels of the image a pixel behind the stage.
    """

    stride: int
    first_dilation: int
    dilation: int
    out_stride: int


def plan_stages(
    strides: Sequence[int], output_stride: int, *, stem_stride: int
) -> tuple[StagePlan, ...]:
    """Turn the strides beyond ``output_stride`` into dilation.

    Raises:
        ValueError: ``output_stride`` is not 8, 16 or 32.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(
            f'output_stride={output_stride} must be 8, 16 or 32, the stride '
            'from which on the stages are dilated'
        )
    plans, reached, dilation = [], stem_stride, 1
    for stride in strides:
        first_dilation = dilation
        if reached * stride > output_stride:
            dilation, stride = dilation * stride, 1
        reached *= stride
        plans.append(StagePlan(stride, first_dilation, dilation, reached))
    return tuple(plans)


def build_stages(
    make_block: Callable[..., nn.Module],
    in_channels: int,
    *,
    widths: Sequence[int],
    depths: Sequence[int],
    plans: Sequence[StagePlan],
    drop_path_rate: float,
) -> Iterator[list[nn.Module]]:
    """Yield the blocks of one stage after the other.

    Args:
        make_block: Takes channels in and out, ``stride``, ``dilations`` (of
            the strided convolution and of those behind it) and ``drop_path``.
        in_channels: Channels of the stem.
        widths: Channels a stage.
        depths: Blocks a stage, of the whole network.
        plans: Of the stages to build; may be fewer.
        drop_path_rate: Stochastic depth of the network's last block; linear
            from 0.
    """
    last = max(sum(depths) - 1, 1)
    for i, plan in enumerate(plans):
        blocks = []
        for j in range(depths[i]):
            block = make_block(
                in_channels,
                widths[i],
                stride=1 if j else plan.stride,
                dilations=(
                    plan.dilation if j else plan.first_dilation,
                    plan.dilation,
                ),
                drop_path=drop_path_rate * (sum(depths[:i]) + j) / last,
            )
            blocks.append(block)
            in_channels = widths[i]
        yield blocks


def needs_projection(
    in_channels: int, channels: int, stride: int, dilations: tuple[int, int]
) -> bool:
    """Tell whether a block's shortcut is a convolution: the stage's first."""
    return (
        in_channels != channels or stride != 1 or dilations[0] != dilations[1]
    )


class AvgPoolSame(nn.Module):
    """Average two pixels an axis at stride 1; beyond the far end is 0.

    What timm's shortcut of the ResNets "d" does in place of a stride. Beyond
    a volume's last slice comes that slice again: it is thick, and a border of
    zeros would be half of it.

    Args:
        spatial_dims: 2 or 3.
    """

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.pool = avg_pool(spatial_dims, 2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape of ``(N, C, *S)``."""
        if x.ndim == 5:
            x = torch.cat([x, x[:, :, -1:]], 2)
        return self.pool(F.pad(x, (0, 1, 0, 1)))


class SqueezeExcite(nn.Module):
    """Weigh the channels by two layers on their means.

    Paper: https://arxiv.org/abs/1709.01507, section 3.

    Args:
        channels: In and out.
        squeezed: Channels between the layers.
        spatial_dims: 2 or 3.
    """

    def __init__(
        self, channels: int, squeezed: int, *, spatial_dims: int
    ) -> None:
        super().__init__()
        self.fc1 = conv(channels, squeezed, 1, spatial_dims=spatial_dims)
        self.fc2 = conv(squeezed, channels, 1, spatial_dims=spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of ``(N, C, *S)``."""
        means = x.mean(tuple(range(2, x.ndim)), keepdim=True)
        return x * self.fc2(self.fc1(means).relu()).sigmoid()


def init_convolutions(network: nn.Module) -> None:
    """Normal with variance 2 / fan-out a group, and biases 0.

    Source: timm's, which differs for grouped convolutions between families
    (ResNets count the fan-out of all groups); here a group's, which keeps the
    variance.
    """
    for module in network.modules():
        weight = getattr(module, 'weight', None)
        if weight is not None and weight.ndim > 1:
            fan_out = weight.numel() // weight.shape[1] // module.groups
            nn.init.normal_(weight, std=(2 / fan_out) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ResidualEncoder(PyramidEncoder, BaseModule):
    """Five levels: the map of a stem at stride 2, and of four stages.

    Attributes:
        stage_names: The modules of each stage; those of its blocks first.
    """

    stage_names: tuple[tuple[str, ...], ...]

    def _set_levels(
        self,
        out_indices: Sequence[int] | None,
        *,
        channels: Sequence[int],
        plans: Sequence[StagePlan],
        spatial_dims: int,
    ) -> None:
        strides = (2, *(plan.out_stride for plan in plans))
        self.out_indices = select_levels(out_indices, len(strides))
        self.out_channels = tuple(channels[i] for i in self.out_indices)
        self.out_strides = tuple(
            (strides[i],) * spatial_dims for i in self.out_indices
        )

    def init_weights(self) -> None:
        """Variance 2 / fan-out; branches that a norm ends start at 0."""
        super().init_weights()
        init_convolutions(self)
        for module in self.modules():
            last = getattr(module, 'last_norm', None)
            if last is not None and last.weight is not None:
                nn.init.zeros_(last.weight)

    def _first_level(self, x: Tensor) -> Tensor:
        """Give the stem's map."""
        raise NotImplementedError

    def _enter(self, x: Tensor) -> Tensor:
        """Lead from the stem's map into the stages."""
        return x

    def _blocks(self, stage: int) -> Iterable[nn.Module]:
        """Return the blocks of stage 0, 1, 2 or 3."""
        return self.get_submodule(self.stage_names[stage][0])

    def _level(self, stage: int, x: Tensor) -> Tensor:
        """Make a level of what a stage gives."""
        return x

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode an image.

        Args:
            x: ``(N, in_channels, *S)``, normalised.

        Returns:
            One map ``(N, C_i, *S_i)`` for each of ``out_indices``.
        """
        x = self._first_level(x)
        maps = [x] if 0 in self.out_indices else []
        num_stages = self.out_indices[-1]
        x = self._enter(x) if num_stages else x
        for stage in range(num_stages):
            for block in self._blocks(stage):
                if self.gradient_checkpointing and self.training:
                    x = checkpoint(block, x, use_reentrant=False)
                else:
                    x = block(x)
            if stage + 1 in self.out_indices:
                maps.append(self._level(stage, x))
        return tuple(maps)

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Tell the depth of a parameter: the stem 0, then a layer a stage."""
        num_layers = len(self.stage_names) + 2
        for layer, names in enumerate(self.stage_names, 1):
            if name.startswith(tuple(f'{n}.' for n in names)):
                return layer, num_layers
        return 0, num_layers

    @property
    def unused_pretrained_keys(self) -> tuple[str, ...]:
        """Prefixes in a file that this model has no use for."""
        behind = self.stage_names[self.out_indices[-1] :]
        return tuple(f'{name}.' for names in behind for name in names)
