"""Whole models: a training step, and labels of an image."""

import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import Tensor, nn

from upernet_ext.interop.key_style import KeyStyle
from upernet_ext.interop.mmseg import from_segmentor, to_segmentor
from upernet_ext.interop.vit_openmmlab import from_openmmlab, to_mmseg_vit
from upernet_ext.registry import MODELS

from ..compare import Logits
from ..row import (
    MMSEG_LOSS_ERROR,
    Call,
    Case,
    Goals,
    Peer,
    Results,
    Row,
)
from ..samples import labelled, predicted, unlabelled
from .backbones import draw_positions
from .heads import BN, CLASSES, MMSEG_LOSS

_MMSEG_VIT = KeyStyle(
    'mmseg', lambda names: True, from_openmmlab, to_mmseg_vit
)
_AUXILIARY = dict(
    in_index=2,
    channels=256,
    num_convs=1,
    concat_input=False,
    num_classes=CLASSES,
    norm_cfg=BN,
    dropout_ratio=0,
)


def _indices(case: Case) -> tuple[int, ...]:
    return tuple(case['layers'] * (i + 1) // 4 - 1 for i in range(4))


def _our_model(case: Case) -> nn.Module:
    cfg = dict(
        type='upernet_ext.EncoderDecoder',
        backbone=dict(
            type='upernet_ext.VisionTransformer',
            arch=dict(
                embed_dims=case['width'],
                num_layers=case['layers'],
                num_heads=case['width'] // 64,
            ),
            img_size=case['image'],
            out_indices=_indices(case),
        ),
        neck=dict(
            type='upernet_ext.MultiLevelNeck', out_channels=case['width']
        ),
        decode_head=dict(
            type='upernet_ext.UPerHead',
            channels=case['hidden'],
            norm_cfg=BN,
            dropout_ratio=0,
        ),
        auxiliary_head=dict(
            type='upernet_ext.FCNHead',
            loss_decode=dict(
                type='upernet_ext.CrossEntropyLoss', loss_weight=0.4
            ),
            **_AUXILIARY,
        ),
        num_classes=CLASSES,
    )
    model = MODELS.build(cfg)
    draw_positions(model.backbone)
    return case.place(model)


def _mmseg_model(case: Case) -> nn.Module:
    width = case['width']
    cfg = dict(
        type='EncoderDecoder',
        backbone=dict(
            type='VisionTransformer',
            img_size=case['image'],
            patch_size=16,
            patch_bias=True,
            embed_dims=width,
            num_layers=case['layers'],
            num_heads=width // 64,
            out_indices=_indices(case),
            norm_cfg=dict(type='LN', eps=1e-6),
        ),
        neck=dict(
            type='MultiLevelNeck',
            in_channels=[width] * 4,
            out_channels=width,
            scales=[4, 2, 1, 0.5],
        ),
        decode_head=dict(
            type='UPerHead',
            in_channels=[width] * 4,
            in_index=[0, 1, 2, 3],
            channels=case['hidden'],
            num_classes=CLASSES,
            norm_cfg=BN,
            dropout_ratio=0,
            loss_decode=MMSEG_LOSS,
        ),
        auxiliary_head=dict(
            type='FCNHead',
            in_channels=width,
            loss_decode=dict(MMSEG_LOSS, loss_weight=0.4),
            **_AUXILIARY,
        ),
        test_cfg=ConfigDict(mode='whole'),
    )
    ours = _our_model(case)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MMSEG_MODELS.build(cfg)
    model.load_state_dict(to_segmentor(ours.state_dict(), _MMSEG_VIT))
    return case.place(model)


def _step(case: Case, model: nn.Module) -> Call:
    """Forward, backward and AdamW, whose rate of 0 keeps the weights."""
    model.train()
    batch, image = case['batch'], case['image']
    inputs = case.normal(batch, 3, image, image)
    labels = case.labels(batch, image, image, num_classes=CLASSES)
    logits = Logits(model.decode_head.conv_seg)
    fused = case.device.type == 'cuda'
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=fused)

    def call() -> Results:
        losses = model.loss(inputs, labelled(labels))
        loss, _ = model.parse_losses(losses)
        loss.backward()
        optimizer.step()
        found = {
            name: parameter.grad
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        optimizer.zero_grad(set_to_none=True)
        return dict(
            loss=dict(loss=loss.detach()),
            gradients=found,
            logits=logits.take(),
        )

    return call


def _our_step(case: Case) -> Call:
    return _step(case, _our_model(case))


def _mmseg_step(case: Case) -> Call:
    return _step(case, _mmseg_model(case))


def _prediction(case: Case, model: nn.Module) -> Call:
    model.eval()
    inputs = case.normal(case['batch'], 3, case['image'], case['image'])
    shape = tuple(inputs.shape[2:])

    @torch.no_grad()
    def call() -> Results:
        samples = model.predict(inputs, unlabelled(inputs, shape))
        return dict(labels=predicted(samples))

    return call


def _our_prediction(case: Case) -> Call:
    return _prediction(case, _our_model(case))


def _mmseg_prediction(case: Case) -> Call:
    return _prediction(case, _mmseg_model(case))


def _rename(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return from_segmentor(values, _MMSEG_VIT)


_REDUCED = dict(width=384, layers=4, image=192, hidden=128)
_VIT_B = dict(width=768, layers=12, image=512, hidden=512)
_VIT_L = dict(width=1024, layers=24, image=512, hidden=512)

ROWS = (
    Row(
        'training-step',
        'training step, ViT + UPerNet, AdamW',
        _our_step,
        (
            Peer(
                'mmseg',
                _mmseg_step,
                Goals(time=0.55, memory=0.50),
                rename=_rename,
                largest_error=MMSEG_LOSS_ERROR,
            ),
        ),
        reduced=dict(_REDUCED, batch=2),
        full=dict(_VIT_B, batch=2),
        gpu=dict(_VIT_L, batch=16),
        smooth=False,
    ),
    Row(
        'inference',
        'labels at full resolution, ViT + UPerNet, one image',
        _our_prediction,
        (Peer('mmseg', _mmseg_prediction, Goals()),),
        reduced=dict(_REDUCED, batch=1),
        full=dict(_VIT_B, batch=1),
        gpu=dict(_VIT_L, batch=1),
        floating=False,
    ),
)
