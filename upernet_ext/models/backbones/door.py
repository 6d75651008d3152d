"""The one door through which a backbone enters a segmentor.

A backbone of this package tells ``out_channels`` (a number a level) and
``out_strides`` (a tuple a level, a number an axis). A borrowed one (mmseg,
mmpretrain, transformers, or any registered module that returns maps) is
measured once on a small grid of zeros.
"""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ...layers.maps import as_maps
from ...registry import MODELS
from .volumes import VolumePlan, adapt, plan_volume

# Edge of the grid of zeros: a multiple of the usual strides and patches.
_PROBE_SIZE = 224
# What mmpretrain's classifiers need to serve as backbones: maps instead of
# the class token, and windows that may be larger than a map.
_MMPRETRAIN_ARGUMENTS = dict(out_type='featmap', pad_small_map=True)
_LEVEL_NORMS = ('norm0.', 'norm1.', 'norm2.', 'norm3.')
# type: (prefixes in its published files that it has no use for, prefixes of
# its own that they lack). Classifiers have one norm, backbones one a level;
# an HRNet's classifier widens and joins the maps.
_PUBLISHED = {
    'mmseg.SwinTransformer': (('norm.',), _LEVEL_NORMS),
    'mmpretrain.SwinTransformer': (('norm3.',), _LEVEL_NORMS),
    'mmpretrain.SwinTransformerV2': (('norm3.',), _LEVEL_NORMS),
    'mmpretrain.ConvNeXt': (('norm3.',), _LEVEL_NORMS),
    'mmseg.HRNet': (
        ('incre_modules.', 'downsamp_modules.', 'final_layer.'),
        (),
    ),
}


@dataclass(frozen=True)
class Levels:
    """What a backbone or a neck gives, finest level first by convention.

    Attributes:
        channels: Channels of each level.
        strides: Stride of each level, one number an axis.
    """

    channels: tuple[int, ...]
    strides: tuple[tuple[float, ...], ...]

    def __str__(self) -> str:
        return f'channels {self.channels} at strides {self.strides}'


def accepts(cls: type, name: str) -> bool:
    """Tell whether ``cls(name=...)`` is part of its signature.

    Follows ``**kwargs`` up the class hierarchy.
    """
    for base in inspect.getmro(cls):
        if '__init__' not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters
        if name in parameters:
            return True
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return False
    return False


def type_of(cfg: Mapping) -> type:
    """Find the class that a config names.

    Raises:
        KeyError: No registry knows it, or its library cannot be imported.
    """
    name = cfg['type']
    if not isinstance(name, str):
        return name
    try:
        cls = MODELS.get(name)
    except ImportError as error:
        library = name.split('.')[0]
        hint = (
            '; mmpretrain needs torchvision: install the torchvision that '
            'fits your torch'
            if 'torchvision' in str(error)
            else ''
        )
        raise ImportError(
            f'{name} needs the library {library}, which could not be '
            f'imported: {error}{hint}'
        ) from error
    if cls is None:
        raise KeyError(
            f'model type {name!r} is not registered; write it with its '
            "scope, such as 'upernet_ext.UPerHead' or 'mmseg.ResNetV1c'"
        )
    return cls


def fill(cfg: Mapping, part: str, **values) -> dict:
    """Copy a config with the numbers that follow from elsewhere.

    A value is written where the config is silent and the class takes it.

    Args:
        cfg: With ``type``.
        part: Its name in the model config, for messages.
        **values: ``argument=(value, where it comes from)``.

    Raises:
        ValueError: The config says otherwise, or the class takes no
            ``spatial_dims`` and is asked for volumes.
    """
    cfg = copy.deepcopy(dict(cfg))
    cls = type_of(cfg)
    for name, (value, origin) in values.items():
        if name in cfg:
            same = cfg[name] == value or (
                isinstance(cfg[name], Sequence)
                and isinstance(value, Sequence)
                and list(cfg[name]) == list(value)
            )
            if not same:
                raise ValueError(
                    f'{part}.{name}={cfg[name]!r}, but {origin} '
                    f'gives {value!r}; remove {name} from {part}, where it '
                    'is filled in by itself, or change the other side'
                )
        elif accepts(cls, name):
            cfg[name] = value
        elif name == 'spatial_dims' and value != 2:
            raise ValueError(
                f'{part} type {cfg["type"]!r} takes images only, but '
                f'spatial_dims={value}; use a type of upernet_ext, or a '
                '2D dataset'
            )
    return cfg


def build_backbone(
    cfg: Mapping | nn.Module,
    *,
    in_channels: int,
    spatial_dims: int,
    spacing: Sequence[float] | None = None,
) -> tuple[nn.Module, str | Mapping | None]:
    """Build a backbone of any library.

    Args:
        cfg: With ``type`` (scope written), the type's own arguments, and
            ``pretrained``: a path, a URL or ``dict(checkpoint=...,
            key_map=...)``. mmengine's ``init_cfg=dict(type='Pretrained',
            checkpoint=...)`` is read as the same, so that it is checked too.
            For volumes also ``adapter`` (``'inflate'``, ``'acs'``,
            ``'slicewise'`` or ``dict(type='slicewise', slice_batch=...)``;
            the defaults are in ``adapters.RULES``) and ``halvings`` (which
            axes each halving halves; by default it follows from the
            spacing). Images have no use for these two, so that a config
            serves both. Or a built backbone, which is taken as it is.
        in_channels: Channels of the image.
        spatial_dims: 2 or 3.
        spacing: Of the voxels (z, y, x), in mm; by default the same along
            all axes. See ``adapters.plan_halvings``.

    Returns:
        The backbone, and its ``pretrained`` for ``interop.load_pretrained``.

    Raises:
        ValueError: The config contradicts the dataset, or the backbone has
            no such adapter.
    """
    if isinstance(cfg, nn.Module):
        return cfg, None
    cfg = fill(cfg, 'backbone', in_channels=(in_channels, 'the dataset'))
    plan, built_for = None, spatial_dims
    if spatial_dims == 3:
        cls = type_of(cfg)
        cfg, plan = plan_volume(
            cfg, cls, takes=partial(accepts, cls), spacing=spacing
        )
        built_for = plan.built_for
    else:
        for name in ('adapter', 'halvings'):
            cfg.pop(name, None)
    cfg = fill(cfg, 'backbone', spatial_dims=(built_for, 'the dataset'))
    pretrained = cfg.pop('pretrained', None)
    init_cfg = cfg.get('init_cfg')
    if isinstance(init_cfg, Mapping) and init_cfg['type'] == 'Pretrained':
        pretrained = pretrained or init_cfg['checkpoint']
        del cfg['init_cfg']
    if in_channels != 3 and 'in_channels' not in cfg:
        raise ValueError(
            f'backbone type {cfg["type"]!r} takes 3 channels only, but the '
            f'dataset gives {in_channels}'
        )
    if str(cfg['type']).startswith('mmpretrain.'):
        for name, value in _MMPRETRAIN_ARGUMENTS.items():
            if accepts(type_of(cfg), name):
                cfg.setdefault(name, value)
    backbone = MODELS.build(cfg)
    _declare_keys(backbone, str(cfg['type']))
    if plan is not None:
        _adapt(backbone, plan, in_channels)
    return backbone, pretrained


def _adapt(backbone: nn.Module, plan: VolumePlan, in_channels: int) -> None:
    """Make a backbone one of volumes; in place."""
    if plan.built_for == 3:
        adapt(backbone, plan)
        return
    levels = backbone_levels(backbone, in_channels=in_channels, spatial_dims=2)
    adapt(backbone, plan, channels=levels.channels, strides=levels.strides)


def _declare_keys(backbone: nn.Module, kind: str) -> None:
    """Tell the loader what published files of a borrowed type differ in."""
    if kind not in _PUBLISHED:
        return
    unused, optional = _PUBLISHED[kind]
    # The official Swin stores its window masks, which are computed.
    masks = [
        f'{name}.attn_mask'
        for name, module in backbone.named_modules()
        if hasattr(module, 'attn')
    ]
    backbone.unused_pretrained_keys = (*unused, *masks)
    backbone.optional_pretrained_keys = optional


@torch.no_grad()
def _maps(
    module: nn.Module, inputs: Tensor | Sequence[Tensor]
) -> list[Tensor]:
    """Run a module once in eval mode, and put every mode back."""
    training = {m: m.training for m in module.modules()}
    for m in training:
        m.training = False
    try:
        return as_maps(module(inputs), type(module).__name__)
    finally:
        for m, mode in training.items():
            m.training = mode


def _levels(maps: Sequence[Tensor], source: str, rank: int) -> Levels:
    if any(m.ndim != rank + 2 for m in maps):
        shapes = [tuple(m.shape) for m in maps]
        raise ValueError(
            f'{source} gives tensors of shapes {shapes}, expected maps '
            f'(N, C, *S) with {rank} spatial axes'
        )
    return Levels(
        tuple(m.shape[1] for m in maps),
        tuple(
            # A stride below 1 is a neck's, which may enlarge the image.
            tuple(
                round(_PROBE_SIZE / s) or _PROBE_SIZE / s for s in m.shape[2:]
            )
            for m in maps
        ),
    )


def _per_axis(
    stride: float | Sequence[float], spatial_dims: int
) -> tuple[float, ...]:
    if isinstance(stride, Sequence):
        return tuple(stride)
    return (stride,) * spatial_dims


def backbone_levels(
    backbone: nn.Module, *, in_channels: int, spatial_dims: int
) -> Levels:
    """Ask a backbone for its levels, or measure them.

    Raises:
        ValueError: It does not return maps.
    """
    if hasattr(backbone, 'out_channels') and hasattr(backbone, 'out_strides'):
        return Levels(
            tuple(backbone.out_channels),
            tuple(tuple(s) for s in backbone.out_strides),
        )
    if hasattr(backbone, 'pyramid_outputs'):
        levels = backbone.pyramid_outputs.values()
        return Levels(
            tuple(level.channels for level in levels),
            tuple(_per_axis(level.stride, spatial_dims) for level in levels),
        )
    zeros = torch.zeros(1, in_channels, *[_PROBE_SIZE] * spatial_dims)
    return _levels(
        _maps(backbone, zeros), type(backbone).__name__, spatial_dims
    )


def neck_levels(neck: nn.Module, levels: Levels) -> Levels:
    """Ask a neck what it makes of ``levels``, or measure it."""
    if hasattr(neck, 'output_levels'):
        return neck.output_levels(levels)
    zeros = [
        torch.zeros(1, c, *(max(1, round(_PROBE_SIZE / s)) for s in stride))
        for c, stride in zip(levels.channels, levels.strides, strict=True)
    ]
    return _levels(
        _maps(neck, zeros), type(neck).__name__, len(levels.strides[0])
    )
