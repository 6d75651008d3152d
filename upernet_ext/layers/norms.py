"""Norms of rank 2 or 3, and ``norm_cfg`` of any rank; asked for at ``rank``.

The norms are torch's own, with one repair each: where a channel has a single
value to normalise (one image a device and a pooled map of one pixel) torch
raises; here batch norm uses its running statistics and instance and group norm
are the identity. Parameters and keys never change.
"""

import math

from mmcv.cnn import build_norm_layer
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn import functional as F  # noqa: N812

from ..registry import MODELS
from .spatial_dims import check_spatial_dims


def _values_per_channel(x: Tensor) -> int:
    return x.numel() // x.shape[1]


class _BatchNormMixin:
    """Use the running statistics where a channel has a single value."""

    def forward(self, x: Tensor) -> Tensor:
        # At batch 1 a map pooled to 1x1 has one value a channel: there is no
        # variance to estimate, and torch raises.
        if not self.training or self._num_values(x) > 1:
            return super().forward(x)
        if self.running_mean is None:
            return x
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            training=False,
            eps=self.eps,
        )

    def _num_values(self, x: Tensor) -> int:
        return _values_per_channel(x)


@MODELS.register_module()
class BatchNorm2d(_BatchNormMixin, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` that survives a single value a channel."""


@MODELS.register_module()
class BatchNorm3d(_BatchNormMixin, nn.BatchNorm3d):
    """``nn.BatchNorm3d`` that survives a single value a channel."""


@MODELS.register_module()
class SyncBatchNorm(_BatchNormMixin, nn.SyncBatchNorm):
    """``nn.SyncBatchNorm`` that survives a single value over all ranks."""

    def _num_values(self, x: Tensor) -> int:
        return _values_per_channel(x) * dist.get_world_size(self.process_group)


class _InstanceNormMixin:
    """Be the identity where a channel has a single value."""

    def forward(self, x: Tensor) -> Tensor:
        if math.prod(x.shape[2:]) == 1 and not self.track_running_stats:
            return x
        return super().forward(x)


@MODELS.register_module()
class InstanceNorm2d(_InstanceNormMixin, nn.InstanceNorm2d):
    """``nn.InstanceNorm2d`` that survives a single value a channel."""


@MODELS.register_module()
class InstanceNorm3d(_InstanceNormMixin, nn.InstanceNorm3d):
    """``nn.InstanceNorm3d`` that survives a single value a channel."""


@MODELS.register_module()
class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` that survives a single value a group.

    Args:
        num_channels: Channels of the input.
        num_groups: Groups; by default the most, up to 32, that divide the
            channels.
        eps: Added to the variance.
        affine: Learn a scale and a shift a channel.
    """

    def __init__(
        self,
        num_channels: int,
        num_groups: int | None = None,
        *,
        eps: float = 1e-5,
        affine: bool = True,
    ) -> None:
        num_groups = num_groups or math.gcd(32, num_channels)
        if num_channels % num_groups:
            raise ValueError(
                f'GN with num_groups={num_groups} cannot split '
                f'{num_channels} channels; choose a divisor, or leave '
                'num_groups out'
            )
        super().__init__(num_groups, num_channels, eps=eps, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise ``(N, C, *S)``."""
        group = math.prod(x.shape[1:]) // self.num_groups
        return x if group == 1 else super().forward(x)


def _sync_batch_norm_works() -> bool:
    return (
        dist.is_available()
        and dist.is_initialized()
        and 'nccl' in dist.get_backend()
    )


def norm_cfg(cfg: dict | None, spatial_dims: int) -> dict | None:
    """Translate mmcv's ``norm_cfg`` to this rank.

    ``BN``, ``IN``, ``GN`` and ``SyncBN`` work for every rank. ``SyncBN``
    becomes ``BN`` where there is no NCCL process group (one process, or the
    CPU). Any other type is passed on as it is.

    Raises:
        ValueError: The type names another rank, such as ``BN3d`` in 2D.
    """
    check_spatial_dims(spatial_dims)
    if cfg is None:
        return None
    kind = cfg['type']
    if kind == 'SyncBN' and not _sync_batch_norm_works():
        kind = 'BN'
    other = {2: 3, 3: 2}[spatial_dims]
    if kind in (f'BN{other}d', f'IN{other}d'):
        raise ValueError(
            f'norm_cfg type {kind!r} does not fit spatial_dims='
            f'{spatial_dims}; write {kind[:2]!r}, which fits every rank'
        )
    ours = {
        'BN': f'BatchNorm{spatial_dims}d',
        'IN': f'InstanceNorm{spatial_dims}d',
        'SyncBN': 'SyncBatchNorm',
        'GN': 'GroupNorm',
    }
    name = ours.get(kind.removesuffix(f'{spatial_dims}d'))
    return {**cfg, 'type': f'upernet_ext.{name}'} if name else dict(cfg)


def norm(cfg: dict, channels: int, spatial_dims: int) -> nn.Module:
    """Build the norm of ``norm_cfg(cfg, spatial_dims)``."""
    return build_norm_layer(norm_cfg(cfg, spatial_dims), channels)[1]


def revert_sync_batch_norm(module: nn.Module) -> nn.Module:
    """Replace SyncBN in a borrowed module where it cannot run.

    In place of each ``nn.SyncBatchNorm`` comes mmengine's batch norm of any
    rank, with its parameters; unless an NCCL process group is there.
    """
    if _sync_batch_norm_works():
        return module
    return revert_sync_batchnorm(module)
