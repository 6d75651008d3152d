"""Small vision transformers: ours, transformers' and timm's."""

import pytest
import torch

from upernet_ext.models import (
    EncoderDecoder,
    TransformersBackbone,
    VisionTransformer,
)

TINY = dict(embed_dims=16, num_layers=4, num_heads=2)
HF = dict(
    hidden_size=16,
    num_hidden_layers=4,
    num_attention_heads=2,
    intermediate_size=32,
    image_size=32,
    patch_size=8,
)
BACKBONE = dict(
    type='upernet_ext.VisionTransformer',
    arch=TINY,
    patch_size=8,
    img_size=32,
    out_indices=(0, 1, 2, 3),
)


def _ours(**kwargs):
    arguments = {k: v for k, v in BACKBONE.items() if k != 'type'}
    return VisionTransformer(**{**arguments, **kwargs})


def _transformers(kind):
    def build(**kwargs):
        return TransformersBackbone(kind, HF, **kwargs)

    return build


def _timm(**kwargs):
    from upernet_ext.models import TimmBackbone

    arguments = dict(embed_dim=16, depth=4, num_heads=2, patch_size=8)
    return TimmBackbone(
        'vit_tiny_patch16_224',
        img_size=(32, 40),
        model_args=arguments,
        **kwargs,
    )


BUILDERS = dict(
    ours=_ours,
    dinov2=_transformers('dinov2'),
    beit=_transformers('beit'),
    dinov3=_transformers('dinov3_vit'),
    timm=_timm,
)


@pytest.fixture(
    params=[
        *('ours', 'dinov2', 'beit', 'dinov3'),
        pytest.param('timm', marks=pytest.mark.needs_torchvision),
    ]
)
def make_backbone(request):
    return BUILDERS[request.param]


@pytest.fixture
def make_model():
    """A segmentor of four small blocks."""

    def make(tuning, backbone=(), **kwargs):
        return EncoderDecoder(
            **{
                **dict(
                    backbone={**BACKBONE, **dict(backbone)},
                    neck=dict(
                        type='upernet_ext.MultiLevelNeck', out_channels=8
                    ),
                    decode_head=dict(
                        type='upernet_ext.UPerHead',
                        channels=8,
                        num_classes=3,
                        norm_cfg=dict(type='GN', num_groups=2),
                    ),
                    tuning=tuning,
                ),
                **kwargs,
            }
        )

    return make


@pytest.fixture
def image():
    return torch.randn(2, 3, 32, 40)
