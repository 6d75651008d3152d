"""Tables of the EfficientNets and MobileNetV2, and their weights.

Sources: EfficientNet table 1, EfficientNetV2 tables 4 and 5 (as released:
google/automl, effnetv2_configs.py), MobileNetV2 table 2; the factors of
width and depth are those of the authors' code.
"""

from typing import NamedTuple

from torch import nn

from .encoder import Encoder, timm_weights


class Row(NamedTuple):
    """A stage of a network.

    Attributes:
        kind: Of the blocks: ``'ir'`` expand, depthwise, project; ``'ds'``
            depthwise, project; ``'er'`` expand with the spatial convolution,
            project; ``'cn'`` one convolution.
        blocks: How many.
        kernel: Edge of the spatial convolution.
        stride: Of the first block's.
        expansion: Channels inside a block over those that come in.
        channels: That go out.
        se: Channels inside the squeeze over those that come in; 0 for none.
    """

    kind: str
    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int
    se: float = 0.0


class Family(NamedTuple):
    """What the networks of a family share.

    Attributes:
        rows: The stages.
        stem: Channels of the stem.
        act: Class of the activation.
        fixed_ends: Neither the stem's channels nor the blocks of the first
            and last stage are scaled.
        least_rounding: Rounding channels keeps at least this part of them.
    """

    rows: tuple[Row, ...]
    stem: int = 32
    act: type[nn.Module] = nn.SiLU
    fixed_ends: bool = False
    least_rounding: float = 0.9


class Arch(NamedTuple):
    """A network: a family, scaled in width and depth."""

    family: str
    width: float = 1.0
    depth: float = 1.0
    fixed_ends: bool = False


def _efficientnet(se: float) -> tuple[Row, ...]:
    return (
        Row('ds', 1, 3, 1, 1, 16, se),
        Row('ir', 2, 3, 2, 6, 24, se),
        Row('ir', 2, 5, 2, 6, 40, se),
        Row('ir', 3, 3, 2, 6, 80, se),
        Row('ir', 3, 5, 1, 6, 112, se),
        Row('ir', 4, 5, 2, 6, 192, se),
        Row('ir', 1, 3, 1, 6, 320, se),
    )


def _v2(blocks: tuple[int, ...], channels: tuple[int, ...]) -> tuple[Row, ...]:
    kinds = ('cn', 'er', 'er', 'ir', 'ir', 'ir', 'ir')
    strides = (1, 2, 2, 2, 1, 2, 1)
    expansions = (1, 4, 4, 4, 6, 6, 6)
    return tuple(
        Row(kind, n, 3, stride, expansion, c, 0.25 if kind == 'ir' else 0.0)
        for kind, n, stride, expansion, c in zip(
            kinds, blocks, strides, expansions, channels, strict=False
        )
    )


FAMILIES = {
    'efficientnet': Family(_efficientnet(se=0.25)),
    'lite': Family(_efficientnet(se=0.0), act=nn.ReLU6, fixed_ends=True),
    'v2_base': Family(
        _v2((1, 2, 2, 3, 5, 8), (16, 32, 48, 96, 112, 192)), least_rounding=0.0
    ),
    'v2_s': Family(
        _v2((2, 4, 4, 6, 9, 15), (24, 48, 64, 128, 160, 256)), stem=24
    ),
    'v2_m': Family(
        _v2((3, 5, 5, 7, 14, 18, 5), (24, 48, 80, 160, 176, 304, 512)), stem=24
    ),
    'v2_l': Family(
        _v2((4, 7, 7, 10, 19, 25, 7), (32, 64, 96, 192, 224, 384, 640))
    ),
    'mobilenetv2': Family(
        (
            Row('ds', 1, 3, 1, 1, 16),
            Row('ir', 2, 3, 2, 6, 24),
            Row('ir', 3, 3, 2, 6, 32),
            Row('ir', 4, 3, 2, 6, 64),
            Row('ir', 3, 3, 1, 6, 96),
            Row('ir', 3, 3, 2, 6, 160),
            Row('ir', 1, 3, 1, 6, 320),
        ),
        act=nn.ReLU6,
    ),
}
ARCHITECTURES = {
    'efficientnet_b0': Arch('efficientnet'),
    'efficientnet_b1': Arch('efficientnet', 1.0, 1.1),
    'efficientnet_b2': Arch('efficientnet', 1.1, 1.2),
    'efficientnet_b3': Arch('efficientnet', 1.2, 1.4),
    'efficientnet_b4': Arch('efficientnet', 1.4, 1.8),
    'efficientnet_b5': Arch('efficientnet', 1.6, 2.2),
    'efficientnet_b6': Arch('efficientnet', 1.8, 2.6),
    'efficientnet_b7': Arch('efficientnet', 2.0, 3.1),
    'efficientnet_b8': Arch('efficientnet', 2.2, 3.6),
    'efficientnet_lite0': Arch('lite'),
    'efficientnet_lite1': Arch('lite', 1.0, 1.1),
    'efficientnet_lite2': Arch('lite', 1.1, 1.2),
    'efficientnet_lite3': Arch('lite', 1.2, 1.4),
    'efficientnet_lite4': Arch('lite', 1.4, 1.8),
    'efficientnet_v2_b0': Arch('v2_base'),
    'efficientnet_v2_b1': Arch('v2_base', 1.0, 1.1),
    'efficientnet_v2_b2': Arch('v2_base', 1.1, 1.2),
    'efficientnet_v2_b3': Arch('v2_base', 1.2, 1.4),
    'efficientnet_v2_s': Arch('v2_s'),
    'efficientnet_v2_m': Arch('v2_m'),
    'efficientnet_v2_l': Arch('v2_l'),
    'mobilenetv2_050': Arch('mobilenetv2', 0.5),
    'mobilenetv2_100': Arch('mobilenetv2'),
    'mobilenetv2_110d': Arch('mobilenetv2', 1.1, 1.2, fixed_ends=True),
    'mobilenetv2_120d': Arch('mobilenetv2', 1.2, 1.4, fixed_ends=True),
    'mobilenetv2_140': Arch('mobilenetv2', 1.4),
}
# timm's names of the published weights.
_WEIGHTS = {
    'efficientnet_b0': 'efficientnet_b0.ra_in1k',
    'efficientnet_b1': 'efficientnet_b1.ft_in1k',
    'efficientnet_b2': 'efficientnet_b2.ra_in1k',
    'efficientnet_b3': 'efficientnet_b3.ra2_in1k',
    'efficientnet_b4': 'efficientnet_b4.ra2_in1k',
    'efficientnet_b5': 'efficientnet_b5.sw_in12k_ft_in1k',
    'efficientnet_b6': 'tf_efficientnet_b6.ns_jft_in1k',
    'efficientnet_b7': 'tf_efficientnet_b7.ns_jft_in1k',
    'efficientnet_b8': 'tf_efficientnet_b8.ra_in1k',
    'efficientnet_lite0': 'efficientnet_lite0.ra_in1k',
    'efficientnet_lite1': 'tf_efficientnet_lite1.in1k',
    'efficientnet_lite2': 'tf_efficientnet_lite2.in1k',
    'efficientnet_lite3': 'tf_efficientnet_lite3.in1k',
    'efficientnet_lite4': 'tf_efficientnet_lite4.in1k',
    'efficientnet_v2_b0': 'tf_efficientnetv2_b0.in1k',
    'efficientnet_v2_b1': 'tf_efficientnetv2_b1.in1k',
    'efficientnet_v2_b2': 'tf_efficientnetv2_b2.in1k',
    'efficientnet_v2_b3': 'tf_efficientnetv2_b3.in21k_ft_in1k',
    'efficientnet_v2_s': 'tf_efficientnetv2_s.in21k_ft_in1k',
    'efficientnet_v2_m': 'tf_efficientnetv2_m.in21k_ft_in1k',
    'efficientnet_v2_l': 'tf_efficientnetv2_l.in21k_ft_in1k',
    'mobilenetv2_050': 'mobilenetv2_050.lamb_in1k',
    'mobilenetv2_100': 'mobilenetv2_100.ra_in1k',
    'mobilenetv2_110d': 'mobilenetv2_110d.ra_in1k',
    'mobilenetv2_120d': 'mobilenetv2_120d.ra_in1k',
    'mobilenetv2_140': 'mobilenetv2_140.ra_in1k',
}
_PAPERS = {'efficientnet': '1905.11946', 'lite': '1905.11946'}
_PAPERS['mobilenetv2'] = '1801.04381'
# These were trained on images scaled to [-1, 1].
_HALF = (127.5, 127.5, 127.5)


def _entry(arch: str) -> Encoder:
    family, weights = ARCHITECTURES[arch].family, _WEIGHTS[arch]
    backbone = dict(type='upernet_ext.EfficientNet', arch=arch)
    if weights.startswith('tf_'):
        backbone |= dict(padding='same', norm_cfg=dict(type='BN', eps=1e-3))
    halved = 'in21k' in weights or 'tf_efficientnet_lite' in weights
    statistics = dict(mean=_HALF, std=_HALF) if halved else {}
    return Encoder(
        family='mobilenetv2' if family == 'mobilenetv2' else 'efficientnet',
        backbone=backbone,
        source=f'https://arxiv.org/abs/{_PAPERS.get(family, "2104.00298")}',
        spatial_dims=(2, 3),
        weights=timm_weights(weights),
        licence='Apache-2.0',
        reference='timm',
        **statistics,
    )


ENCODERS = {arch: _entry(arch) for arch in ARCHITECTURES}
