"""Our models as mmsegmentation's, and mmsegmentation's configs as ours."""

import inspect
from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from ..config import ConfigError
from ..interop.key_style import KeyStyle, StateDict
from ..interop.mmseg import to_segmentor
from ..models.backbones import accepts, type_of
from ..models.segmentors.sliding_window import overlap_stride
from ..registry import MODELS
from .comparison import Peer
from .levels import levels_there
from .mmseg_backbones import mmseg_backbone

# What a head of mmseg is with us, and which of its arguments are other.
_HEADS = {
    'UPerHead': 'upernet_ext.UPerHead',
    'FCNHead': 'upernet_ext.FCNHead',
    'DepthwiseSeparableASPPHead': 'upernet_ext.DeepLabV3PlusHead',
}
_PREPROCESSING = (
    *('mean', 'std', 'bgr_to_rgb', 'size', 'size_divisor', 'pad_val'),
    *('seg_pad_val', 'test_cfg'),
)


# Options of our heads that mmseg's lack, and the value that is mmseg's. How
# the levels were chosen is said by in_index, DeepLabV3+'s rates differ on
# small maps only, where the numbers will tell, and its dropout in training.
_OURS = dict(
    top_down='lateral',
    deep_supervision=False,
    flow='mmseg',
    separable=True,
    multi_label=False,
    spatial_dims=2,
)
_CHOICES = ('encoder_depth', 'low_level', 'rates', 'aspp_dropout')


def _loss(out_channels: int | None) -> dict[str, Any]:
    return dict(
        type='mmseg.CrossEntropyLoss',
        use_sigmoid=out_channels == 1,
        avg_non_ignore=True,
    )


def _head(
    head: nn.Module, given: Mapping[str, Any], backbone: nn.Module
) -> dict[str, Any]:
    """Describe a head for mmseg.

    Args:
        head: Ours, or a borrowed one.
        given: The config that it was built from.
        backbone: Whose levels it takes.

    Raises:
        ConfigError: It computes what mmseg has no head for.
    """
    theirs = {ours: name for name, ours in _HEADS.items()}.get(given['type'])
    if theirs is None and not str(given['type']).startswith('mmseg.'):
        raise ConfigError(
            f'{given["type"]} has no counterpart in mmseg; '
            f'{", ".join(_HEADS.values())} have'
        )
    kind = given['type'] if theirs is None else f'mmseg.{theirs}'
    cfg = _shared_arguments(head, given, kind)
    cfg |= dict(
        type=kind,
        in_channels=head.in_channels,
        in_index=levels_there(backbone, head.in_index),
        num_classes=head.num_classes,
        out_channels=head.out_channels,
        threshold=head.threshold,
        loss_decode=_loss(head.out_channels),
    )
    if theirs == 'DepthwiseSeparableASPPHead':
        fine, deep = head.in_channels
        cfg |= dict(
            in_channels=deep,
            in_index=cfg['in_index'][1],
            c1_in_channels=fine,
        )
        if levels_there(backbone, head.in_index)[0] != 0:
            raise ConfigError(
                f'{kind} takes the first map as the fine level, but this '
                f'head takes map {head.in_index[0]}'
            )
    return {k: v for k, v in cfg.items() if k != 'init_cfg'}


def _shared_arguments(
    head: nn.Module, given: Mapping[str, Any], kind: str
) -> dict[str, Any]:
    """Keep what mmseg's head takes, too; refuse what it cannot do."""
    cfg = {**_defaults(head), **given}
    cls = type_of({'type': kind})
    other = {
        k: v for k, v in cfg.items() if k != 'type' and not accepts(cls, k)
    }
    wrong = {
        k: v
        for k, v in other.items()
        if k not in _CHOICES and v not in (None, _OURS.get(k))
    }
    if given['type'] != kind and wrong:
        raise ConfigError(f'{kind} cannot do {wrong} of {given["type"]}')
    return {k: v for k, v in cfg.items() if k not in other}


def mmseg_config(model: nn.Module) -> tuple[dict[str, Any], KeyStyle]:
    """Write the config of mmseg's ``EncoderDecoder`` that equals ours.

    Args:
        model: Our ``EncoderDecoder``, for images.

    Returns:
        The config, and how its backbone's parameters are named.

    Raises:
        ConfigError: Some part has no counterpart there.
    """
    if model.spatial_dims != 2:
        raise ConfigError('mmseg has no models for volumes')
    given = model.init_arguments
    backbone, style = mmseg_backbone(model.backbone, given['backbone'])
    cfg = dict(
        type='mmseg.EncoderDecoder',
        data_preprocessor=_preprocessing(given.get('data_preprocessor')),
        backbone=backbone,
        decode_head=_head(
            model.decode_head, given['decode_head'], model.backbone
        ),
        test_cfg=_test_cfg(model.test_cfg),
    )
    if given.get('neck') is not None:
        cfg['neck'] = _neck(model, given['neck'])
    auxiliary = given.get('auxiliary_head')
    if isinstance(auxiliary, Mapping):
        cfg['auxiliary_head'] = _head(
            model.auxiliary_head, auxiliary, model.backbone
        )
    elif auxiliary is not None:
        cfg['auxiliary_head'] = [
            _head(head, one, model.backbone)
            for head, one in zip(model.auxiliary_head, auxiliary, strict=True)
        ]
    return cfg, style


def _preprocessing(given: Mapping | None) -> dict[str, Any]:
    kept = {k: v for k, v in (given or {}).items() if k in _PREPROCESSING}
    return dict(kept, type='mmseg.SegDataPreProcessor')


def _test_cfg(given: Mapping) -> dict[str, Any]:
    if given['mode'] == 'whole':
        return dict(mode='whole')
    crop_size = given['crop_size']
    stride = given['stride'] or overlap_stride(
        crop_size, given['overlap'], steps='clamped'
    )
    return dict(mode='slide', crop_size=crop_size, stride=stride)


def _defaults(module: nn.Module) -> dict[str, Any]:
    """List what a module's arguments are when nobody gives them."""
    parameters = inspect.signature(type(module)).parameters.values()
    return {
        p.name: p.default
        for p in parameters
        if p.default not in (inspect.Parameter.empty, None)
    }


def _neck(model: nn.Module, given: Mapping[str, Any]) -> dict[str, Any]:
    kind = f'mmseg.{str(given["type"]).split(".")[-1]}'
    if kind not in ('mmseg.MultiLevelNeck', 'mmseg.Feature2Pyramid'):
        raise ConfigError(
            f'the neck {given["type"]} has no counterpart in mmseg'
        )
    channels = list(model.neck.in_channels)
    cfg = {
        **_defaults(model.neck),
        **given,
        'in_channels': channels,
        'embed_dim': channels[0],
    }
    cls = type_of({'type': kind})
    return dict({k: v for k, v in cfg.items() if accepts(cls, k)}, type=kind)


def build_mmseg(cfg: Mapping, state_dict: StateDict) -> Peer:
    """Build mmseg's own model and load it, every name.

    Raises:
        RuntimeError: torch's, where a name or shape does not fit.
    """
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(ConfigDict(cfg))
    model = revert_sync_batchnorm(model)
    model.load_state_dict(dict(state_dict))
    model.train(False)

    def run(x: Tensor) -> list[Tensor]:
        metas = [dict(img_shape=tuple(x.shape[2:]))] * len(x)
        return [model.encode_decode(x, metas)]

    return Peer('mmseg', model, run)


def build_mmseg_backbone(cfg: Mapping, weights: StateDict) -> Peer:
    """Build mmseg's own backbone and load it, every name."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        backbone = revert_sync_batchnorm(MODELS.build(ConfigDict(cfg)))
    backbone.load_state_dict(dict(weights))
    backbone.train(False)
    return Peer('mmseg', backbone, lambda x: list(backbone(x)))


def to_mmseg(model: nn.Module) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return mmseg's config and state dict of our model."""
    cfg, style = mmseg_config(model)
    return cfg, to_segmentor(model.state_dict(), style)


def from_mmseg_config(cfg: Mapping) -> dict[str, Any]:
    """Write the config of our ``EncoderDecoder`` that equals mmseg's.

    Args:
        cfg: mmseg's ``model``.

    Raises:
        ConfigError: It is no ``EncoderDecoder``.
    """
    if str(cfg['type']).split('.')[-1] != 'EncoderDecoder':
        raise ConfigError(
            f"mmseg's {cfg['type']} cannot be converted; EncoderDecoder can"
        )
    parts = dict(type='upernet_ext.EncoderDecoder')
    for part in ('backbone', 'neck'):
        if cfg.get(part) is not None:
            parts[part] = _ours_of(cfg[part])
    for part in ('decode_head', 'auxiliary_head'):
        given = cfg.get(part)
        if isinstance(given, Mapping):
            parts[part] = _our_head(given)
        elif given is not None:
            parts[part] = [_our_head(one) for one in given]
    head = parts['decode_head']
    parts['num_classes'] = head.get('out_channels') or head['num_classes']
    preprocessing = cfg.get('data_preprocessor') or {}
    parts['data_preprocessor'] = dict(
        type='upernet_ext.SegDataPreProcessor',
        **{k: v for k, v in preprocessing.items() if k in _PREPROCESSING},
    )
    test = cfg.get('test_cfg') or dict(mode='whole')
    parts['test_cfg'] = {
        k: v for k, v in test.items() if k in ('mode', 'crop_size', 'stride')
    }
    return parts


def _ours_of(given: Mapping) -> dict[str, Any]:
    """Write the scope of a borrowed part; weights come with the model."""
    kept = {k: v for k, v in given.items() if k not in ('init_cfg',)}
    kept.pop('pretrained', None)
    kind = str(given['type'])
    return dict(kept, type=kind if '.' in kind else f'mmseg.{kind}')


def _our_head(given: Mapping) -> dict[str, Any]:
    cfg = _ours_of(given)
    name = cfg['type'].removeprefix('mmseg.')
    cfg['loss_decode'] = _loss(cfg.get('out_channels'))
    if name not in _HEADS:
        return cfg
    cfg['type'] = _HEADS[name]
    for key in ('out_channels', 'loss_decode', 'input_transform', 'conv_cfg'):
        cfg.pop(key, None)
    if name == 'DepthwiseSeparableASPPHead':
        cfg['in_channels'] = [cfg.pop('c1_in_channels'), cfg['in_channels']]
        cfg['in_index'] = [0, cfg.get('in_index', -1)]
        cfg['rates'] = 'fixed'
    return cfg
