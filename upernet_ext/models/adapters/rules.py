"""The one table of adapters: what each backbone can be, and is by default."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Slices that pass through the 2D network at a time.
SLICE_BATCH = 64

_CNN = ('inflate', 'acs', 'slicewise')
_BORROWED_CNN = ('slicewise', 'inflate', 'acs')
# Class (of transformers: and model type): what is allowed, the default first.
RULES: Mapping[str, tuple[str, ...]] = {
    **{
        f'upernet_ext.{name}': _CNN
        for name in (
            *('ResNet', 'ResNetV2', 'RegNet', 'Xception', 'DenseNet'),
            *('EfficientNet', 'ConvNeXt'),
        )
    },
    # With weights or a preset's name; otherwise the other way round.
    'upernet_ext.VisionTransformer': ('slicewise', 'inflate'),
    **{
        f'mmseg.{name}': _BORROWED_CNN
        for name in (
            *('ResNet', 'ResNetV1c', 'ResNetV1d', 'ResNeXt', 'MobileNetV2'),
        )
    },
    'upernet_ext.TransformersBackbone resnet': _BORROWED_CNN,
    'upernet_ext.TransformersBackbone regnet': _BORROWED_CNN,
}
# Of types that are not in the table.
_ANY_RANK, _IMAGES_ONLY = ('inflate', 'slicewise'), ('slicewise',)


@dataclass(frozen=True)
class Adapter:
    """How a backbone sees volumes.

    Attributes:
        type: ``'inflate'``, ``'acs'`` or ``'slicewise'``.
        slice_batch: Slices at a time, of ``'slicewise'``.
    """

    type: str
    slice_batch: int = SLICE_BATCH


def allowed_adapters(
    cls: type, cfg: Mapping[str, Any], *, any_rank: bool
) -> tuple[str, ...]:
    """List the adapters of a backbone, the default first.

    Args:
        cls: Of the backbone.
        cfg: Its config.
        any_rank: Whether the class takes ``spatial_dims``.
    """
    name = f'{cls.__module__.split(".")[0]}.{cls.__name__}'
    if name == 'upernet_ext.VisionTransformer':
        # A plain size ('b', or a dict) without weights starts from nothing,
        # and a Primus is of volumes.
        arch = cfg.get('arch', 'b')
        preset = isinstance(arch, str) and len(arch) > 1
        weights = cfg.get('pretrained') or cfg.get('init_cfg')
        if str(arch).startswith('primus') or not (preset or weights):
            return RULES[name][::-1]
    if 'model_type' in cfg:
        name = f'{name} {cfg["model_type"]}'
    return RULES.get(name, _ANY_RANK if any_rank else _IMAGES_ONLY)


def choose_adapter(
    adapter: str | Mapping[str, Any] | None,
    cls: type,
    cfg: Mapping[str, Any],
    *,
    any_rank: bool,
) -> Adapter:
    """Resolve the ``adapter`` of a backbone's config.

    Args:
        adapter: A name, or ``dict(type='slicewise', slice_batch=...)``;
            ``None`` for the default.
        cls: Of the backbone.
        cfg: Its config.
        any_rank: Whether the class takes ``spatial_dims``.

    Raises:
        ValueError: The backbone has no such adapter.
    """
    allowed = allowed_adapters(cls, cfg, any_rank=any_rank)
    options = (
        dict(adapter)
        if isinstance(adapter, Mapping)
        else dict(type=adapter or allowed[0])
    )
    kind = options.pop('type', None)
    if kind not in allowed:
        raise ValueError(
            f'backbone type {cfg["type"]!r} has no adapter={kind!r}; choose '
            f'one of {allowed}, or leave adapter out for {allowed[0]!r}'
        )
    known = {'slice_batch'} if kind == 'slicewise' else set()
    if set(options) - known or options.get('slice_batch', 1) < 1:
        raise ValueError(
            f'backbone.adapter of type {kind!r} takes {sorted(known)} (a '
            f'positive number of slices) beside type, got {options}'
        )
    return Adapter(kind, **options)
