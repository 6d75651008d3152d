"""How a backbone's config becomes a network of volumes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..adapters import (
    ISOTROPIC,
    Adapter,
    Halvings,
    apply_halvings,
    check_halvings,
    choose_adapter,
    depth_stride,
    plan_halvings,
    slicewise,
    to_volumes,
)
from .vit_settings import settings


@dataclass(frozen=True)
class VolumePlan:
    """What is done to a backbone, once it is built.

    Attributes:
        adapter: Which adapter.
        built_for: The rank that it is built for.
        halvings: Those that the built network does not know of.
    """

    adapter: Adapter
    built_for: int
    halvings: Halvings = ISOTROPIC


def plan_volume(
    cfg: Mapping[str, Any],
    cls: type,
    *,
    takes: Callable[[str], bool],
    spacing: Sequence[float] | None,
) -> tuple[dict[str, Any], VolumePlan]:
    """Read ``adapter`` and ``halvings`` of a backbone's config.

    Args:
        cfg: Of the backbone.
        cls: Its class.
        takes: Tells whether the class has an argument.
        spacing: Of the voxels (z, y, x), in mm; ``None`` for the same.

    Returns:
        The config that it is built from, and what comes after.

    Raises:
        ValueError: The backbone has no such adapter, or cannot be told.
    """
    cfg = dict(cfg)
    spatial_dims = cfg.pop('spatial_dims', 3)
    if spatial_dims != 3:
        raise ValueError(
            f'backbone.spatial_dims={spatial_dims}, but the dataset '
            'gives 3; remove spatial_dims from backbone, where it is filled '
            'in by itself'
        )
    adapter = choose_adapter(
        cfg.pop('adapter', None), cls, cfg, any_rank=takes('spatial_dims')
    )
    halvings = cfg.pop('halvings', None)
    halvings = (
        check_halvings(halvings)
        if halvings is not None
        else plan_halvings(spacing or (1, 1, 1))
    )
    if adapter.type == 'acs' and halvings != ISOTROPIC:
        raise ValueError(
            "adapter='acs' looks at three planes alike, but the spacing is "
            f"not (halvings {halvings}); use 'inflate' or 'slicewise'"
        )
    if adapter.type == 'inflate' and takes('spatial_dims'):
        scratch = str(cfg.get('arch')).startswith('primus')
        if cfg.get('pretrained') and takes('inflated') and not scratch:
            cfg.setdefault('inflated', True)
        told = _told(cfg, halvings, takes)
        rest = halvings if told is None else ISOTROPIC
        return told or cfg, VolumePlan(adapter, 3, rest)
    return cfg, VolumePlan(adapter, 2, halvings)


def _told(
    cfg: dict[str, Any], halvings: Halvings, takes: Callable[[str], bool]
) -> dict[str, Any] | None:
    """Tell a class that asks; ``None`` where it does not."""
    if takes('halvings'):
        return {**cfg, 'halvings': halvings}
    if not takes('patch_size'):
        return None
    # A plain ViT: patches are as deep as they are wide in mm.
    given = {n: cfg[n] for n in ('arch', 'patch_size') if n in cfg}
    patch = settings(**{'arch': 'b', **given})['patch_size']
    if isinstance(patch, int) and halvings != ISOTROPIC:
        plane = (patch, patch)
        return {
            **cfg,
            'patch_size': (depth_stride(plane, halvings), *plane),
        }
    return cfg


def adapt(
    backbone: nn.Module,
    plan: VolumePlan,
    *,
    channels: Sequence[int] = (),
    strides: Sequence[Sequence[float]] = (),
) -> None:
    """Make a built backbone one of volumes; in place.

    Args:
        backbone: Built for ``plan.built_for`` axes.
        plan: From ``plan_volume``.
        channels: Of its levels, where it was built for images.
        strides: ``(y, x)`` of the same.
    """
    if plan.adapter.type == 'slicewise':
        slicewise(
            backbone,
            channels=channels,
            strides=strides,
            halvings=plan.halvings,
            slice_batch=plan.adapter.slice_batch,
        )
        return
    if plan.built_for == 2:
        to_volumes(backbone, plan.adapter.type)
        backbone.out_channels = tuple(channels)
        backbone.out_strides = tuple((stride[-1],) * 3 for stride in strides)
    apply_halvings(backbone, plan.halvings)
