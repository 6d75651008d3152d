"""A small segmentor of either rank, and what it is trained on."""

import pytest
import torch
from mmseg.structures import SegDataSample

from upernet_ext.models import EncoderDecoder
from upernet_ext.registry import MODELS
from upernet_ext.structures import GridData

VIT = dict(
    type='upernet_ext.VisionTransformer',
    arch=dict(embed_dims=24, num_layers=4, num_heads=3),
    patch_size=4,
    img_size=16,
    out_indices=(0, 1, 2, 3),
)
NECK = dict(type='upernet_ext.MultiLevelNeck', out_channels=12)
HEAD = dict(type='upernet_ext.UPerHead', channels=8, norm_cfg=dict(type='BN'))
AUX = dict(
    type='upernet_ext.FCNHead',
    channels=8,
    in_index=2,
    num_convs=1,
    concat_input=False,
    norm_cfg=dict(type='BN'),
    loss_decode=dict(type='upernet_ext.CrossEntropyLoss', loss_weight=0.4),
)
both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])


def segmentor(spatial_dims: int = 2, **kwargs) -> EncoderDecoder:
    arguments = dict(
        type='upernet_ext.EncoderDecoder',
        backbone=VIT,
        neck=NECK,
        decode_head=HEAD,
        auxiliary_head=AUX,
        num_classes=3,
        spatial_dims=spatial_dims,
    )
    model = MODELS.build({**arguments, **kwargs})
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and 'neck' not in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def sample(spatial_dims: int, size: int, classes: int = 3) -> SegDataSample:
    out = SegDataSample()
    out.gt_sem_seg = GridData(
        data=torch.randint(classes, (1, *[size] * spatial_dims))
    )
    return out
