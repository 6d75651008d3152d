"""Build a segmentation model in one line, without a config file.

>>> from upernet_ext.apis import build_model
>>> model = build_model(
...     'upernet', encoder_name='seresnext50', input_shape=(3, 224, 224),
...     num_classes=5)
>>> model.encoder.pyramid_outputs['P5']
PyramidLevel(channels=2048, stride=(32, 32), shape=(2048, 7, 7))

Argument names are medicai's (https://github.com/innat/medic-ai), with their
meaning, for images and volumes alike.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from mmengine.registry import DefaultScope
from torch import nn
from torch.func import functional_call

from ..layers.rank import SPATIAL_DIMS
from ..models.backbones import accepts, as_maps, backbone_levels, type_of
from ..models.backbones.encoder import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Encoder,
    PyramidEncoder,
    PyramidLevel,
)
from ..models.backbones.encoders import find_encoder
from ..models.segmentors import EncoderDecoder
from ..registry import MODELS

HEADS = {
    'upernet': 'upernet_ext.UPerHead',
    'deeplabv3plus': 'upernet_ext.DeepLabV3PlusHead',
}
# Where the factory's default differs from the head's: medicai's.
_DEFAULTS = {'deeplabv3plus': dict(aspp_dropout=0.5)}
# Arguments of the head -> the factory's names for them.
_ARGUMENTS = dict(
    dilations='decoder_dilation_rates',
    separable='decoder_aspp_separable',
    aspp_dropout='decoder_aspp_dropout',
    c1_channels='projection_filters',
)
# Names of norms and activations, Keras's and ours -> mmcv's types.
NORMS = {
    'batch': 'BN',
    'sync_batch': 'SyncBN',
    'instance': 'IN',
    'group': 'GN',
}
ACTIVATIONS = {
    'relu': 'ReLU',
    'leaky_relu': 'LeakyReLU',
    'gelu': 'GELU',
    'silu': 'SiLU',
    'swish': 'SiLU',
    'elu': 'ELU',
}


def build_model(
    architecture: str,
    encoder_name: str | None = None,
    *,
    input_shape: Sequence[int],
    encoder: nn.Module | None = None,
    encoder_depth: int | None = None,
    encoder_weights: str | Mapping | None = None,
    num_classes: int = 1,
    classifier_activation: str | None = None,
    head_upsample: int | Sequence[int] | None = None,
    decoder_filters: int = 256,
    decoder_normalization: str | Mapping = 'batch',
    decoder_activation: str | Mapping = 'relu',
    decoder_dilation_rates: Sequence[int] | None = None,
    decoder_aspp_separable: bool | None = None,
    decoder_aspp_dropout: float | None = None,
    projection_filters: int | None = None,
    encoder_options: Mapping[str, Any] | None = None,
    head_options: Mapping[str, Any] | None = None,
) -> EncoderDecoder:
    """Build UPerNet or DeepLabV3+ on an encoder, for images or volumes.

    Args:
        architecture: ``'upernet'`` or ``'deeplabv3plus'``.
        encoder_name: A name of ``list_encoders()``.
        input_shape: ``(C, H, W)`` or ``(C, D, H, W)``: its length decides
            between images and volumes. Inputs of other sizes work too.
        encoder: A built encoder in place of ``encoder_name``: a module that
            returns maps, finest first, and tells ``pyramid_outputs``: name ->
            something with ``channels`` and ``stride``.
        encoder_depth: Use P1 to P[depth] only; at least 3. The deepest of
            them gets the pyramid pooling or the ASPP.
        encoder_weights: ``'default'`` for the published weights of the
            encoder; or what ``pretrained`` takes: a path, a URL. ``None``
            starts from random weights.
        num_classes: Classes; 1 for one foreground class.
        classifier_activation: ``'sigmoid'`` (several classes are then
            independent), ``'softmax'`` or ``None``, of ``model(inputs)``.
        head_upsample: Factor from the logits to the input. It follows from
            the encoder; a number given here is checked.
        decoder_filters: Channels of the decoder; medicai's DeepLabV3+ calls
            them ``decoder_channels``.
        decoder_normalization: ``'batch'``, ``'group'``, ``'instance'``,
            ``'sync_batch'``, or mmcv's ``norm_cfg``.
        decoder_activation: ``'relu'``, ``'gelu'``, ..., or mmcv's
            ``act_cfg``.
        decoder_dilation_rates: DeepLabV3+: rates of the ASPP's 3-wide
            convolutions; (12, 24, 36). They shrink on maps where they would
            see padding only (``head_options=dict(rates='fixed')`` for not).
        decoder_aspp_separable: DeepLabV3+: separable convolutions in the
            ASPP; ``True``.
        decoder_aspp_dropout: DeepLabV3+: dropout behind the ASPP; 0.5.
        projection_filters: DeepLabV3+: channels of the low level; 48.
        encoder_options: More arguments of the encoder, such as
            ``dict(drop_path_rate=0.2)``.
        head_options: More arguments of the head, such as
            ``dict(top_down='fused')``.

    Returns:
        The model, initialised, its encoder's weights loaded.
        ``model(inputs)`` gives ``(N, num_classes, *S)`` at the input's size;
        ``model.encoder.pyramid_outputs`` maps P1 to Pn to channels, stride
        and shape.

    Raises:
        ValueError: Arguments that contradict each other or the encoder.
        WeightsError: The weights do not fit the encoder.
    """
    if classifier_activation == 'softmax' and num_classes == 1:
        raise ValueError(
            'a softmax over num_classes=1 is always 1; use '
            "classifier_activation='sigmoid', or two classes"
        )
    in_channels, size = _split_shape(input_shape)
    entry = _find_entry(encoder_name, encoder, spatial_dims=len(size))
    head = _head(
        architecture,
        channels=decoder_filters,
        encoder_depth=encoder_depth,
        norm_cfg=_named(decoder_normalization, NORMS, 'decoder_normalization'),
        act_cfg=_named(decoder_activation, ACTIVATIONS, 'decoder_activation'),
        dilations=decoder_dilation_rates and (1, *decoder_dilation_rates),
        separable=decoder_aspp_separable,
        aspp_dropout=decoder_aspp_dropout,
        c1_channels=projection_filters,
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(
            dict(
                type='upernet_ext.EncoderDecoder',
                data_preprocessor=dict(
                    type='upernet_ext.SegDataPreProcessor',
                    **_normalization(entry, in_channels),
                ),
                backbone=encoder
                if entry is None
                else _backbone(
                    entry,
                    encoder_weights,
                    depth=encoder_depth,
                    options=encoder_options or {},
                ),
                neck=entry and entry.neck,
                decode_head={**head, **(head_options or {})},
                num_classes=num_classes,
                in_channels=in_channels,
                spatial_dims=len(size),
                multi_label=num_classes > 1
                and classifier_activation == 'sigmoid',
                classifier_activation=classifier_activation,
            )
        )
        model.init_weights()
    _tell_shapes(model.encoder, (in_channels, *size))
    _check_upsampling(model, head_upsample)
    return model


def _find_entry(
    name: str | None, encoder: nn.Module | None, *, spatial_dims: int
) -> Encoder | None:
    """Look a name up, or check a built encoder, which has no entry."""
    if (encoder is None) == (name is None):
        raise ValueError(
            'build_model needs encoder_name (a name of list_encoders()) or '
            'encoder (a built module), one of them'
        )
    if encoder is None:
        return find_encoder(name, spatial_dims=spatial_dims)
    _check_pyramid(encoder, spatial_dims=spatial_dims)
    return None


def _split_shape(
    input_shape: Sequence[int],
) -> tuple[int, tuple[int, ...]]:
    """Take ``(C, *S)`` apart, and refuse ``(*S, C)``."""
    shape = tuple(input_shape)
    whole = all(isinstance(n, int) and n > 0 for n in shape)
    if len(shape) - 1 not in SPATIAL_DIMS or not whole:
        raise ValueError(
            'input_shape must be (C, H, W) for images or (C, D, H, W) for '
            f'volumes, positive and without the batch, got {shape}'
        )
    if shape[-1] <= 4 < shape[0]:
        raise ValueError(
            f'input_shape={shape} looks channels-last; here channels come '
            f'first: {(shape[-1], *shape[:-1])}'
        )
    return shape[0], shape[1:]


def _named(
    value: str | Mapping, types: Mapping[str, str], argument: str
) -> dict:
    """Turn a name into mmcv's config; pass a config on."""
    if isinstance(value, Mapping):
        return dict(value)
    if value not in types:
        raise ValueError(
            f'{argument} must be one of {list(types)} or a config '
            f'dict(type=...), got {value!r}'
        )
    return dict(type=types[value])


def _check_pyramid(encoder: nn.Module, *, spatial_dims: int) -> None:
    levels = getattr(encoder, 'pyramid_outputs', None)
    if not levels:
        raise ValueError(
            f'encoder {type(encoder).__name__} has no pyramid_outputs: give '
            "it a mapping such as {'P1': PyramidLevel(channels=64, "
            'stride=(4, 4))}, finest level first'
        )
    stride = next(iter(levels.values())).stride
    if isinstance(stride, Sequence) and len(stride) != spatial_dims:
        raise ValueError(
            f'encoder {type(encoder).__name__} has strides of {len(stride)} '
            f'axes, but input_shape has {spatial_dims}'
        )


def _backbone(
    entry: Encoder,
    weights: str | Mapping | None,
    *,
    depth: int | None,
    options: Mapping,
) -> dict:
    if weights == 'default':
        weights = entry.weights
        if weights is None:
            raise ValueError(
                f'{entry.family} has no published weights that can be had by '
                f'a URL; get them at {entry.weights_page or entry.source} and '
                'give their path as encoder_weights'
            )
    cfg = {**entry.backbone, 'pretrained': weights, **options}
    if depth and issubclass(type_of(cfg), PyramidEncoder) and not entry.neck:
        # Stages that nothing reads would train nothing and stop DDP.
        cfg.setdefault('out_indices', tuple(range(depth)))
    return cfg


def _normalization(entry: Encoder | None, in_channels: int) -> dict:
    """Mean and std of three channels; what fits them goes to one channel."""
    if in_channels not in (1, 3):
        return {}
    if entry is None:
        return dict(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return dict(mean=entry.mean, std=entry.std)


def _head(architecture: str, *, encoder_depth: int | None, **options) -> dict:
    """Config of the head; options that are ``None`` are left to it."""
    if architecture not in HEADS:
        raise ValueError(
            f'architecture must be one of {list(HEADS)}, got {architecture!r}'
        )
    cfg = dict(type=HEADS[architecture], **_DEFAULTS.get(architecture, {}))
    if encoder_depth is not None:
        cfg['encoder_depth'] = encoder_depth
    for name, value in options.items():
        if value is None:
            continue
        if not accepts(type_of(cfg), name):
            raise ValueError(
                f'{_ARGUMENTS[name]} means nothing to {architecture!r}; '
                'remove it'
            )
        cfg[name] = value
    return cfg


def _tell_shapes(encoder: nn.Module, input_shape: Sequence[int]) -> None:
    """Put channels, stride and shape of every map into the encoder."""
    in_channels, *size = input_shape
    levels = backbone_levels(
        encoder, in_channels=in_channels, spatial_dims=len(size)
    )
    strides = levels.strides
    encoder.pyramid_outputs = {
        f'P{i}': PyramidLevel(shape[0], stride, shape)
        for i, (shape, stride) in enumerate(
            zip(_map_shapes(encoder, input_shape), strides, strict=True), 1
        )
    }


@torch.no_grad()
def _map_shapes(
    encoder: nn.Module, input_shape: Sequence[int]
) -> list[tuple[int, ...]]:
    """Run an encoder on zeros, ours without memory; ``(C, *S)`` a map."""
    state = dict(chain(encoder.named_parameters(), encoder.named_buffers()))
    device = next(iter(state.values())).device
    if isinstance(encoder, PyramidEncoder):
        device = 'meta'
        state = {name: value.to(device) for name, value in state.items()}
    training = {m: m.training for m in encoder.modules()}
    for module in training:
        module.training = False
    zeros = torch.zeros(1, *input_shape, device=device)
    maps = as_maps(functional_call(encoder, state, zeros))
    for module, mode in training.items():
        module.training = mode
    return [tuple(x.shape[1:]) for x in maps]


def _check_upsampling(
    model: EncoderDecoder, head_upsample: float | Sequence[float] | None
) -> None:
    """Refuse a factor that would not give the input's size."""
    stride = model.levels.strides[model.decode_head.in_index[0]]
    if head_upsample is None:
        return
    given = (
        tuple(head_upsample)
        if isinstance(head_upsample, Sequence)
        else (head_upsample,) * len(stride)
    )
    if given != stride:
        raise ValueError(
            f'head_upsample={head_upsample}, but the logits are at stride '
            f'{stride} of the input; remove it, the output always has the '
            "input's size"
        )
