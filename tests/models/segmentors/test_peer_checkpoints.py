"""A whole model of mmsegmentation loads as it is, and computes the same."""

import pytest
import torch
from mmengine.config import ConfigDict
from mmseg.structures import SegDataSample

from upernet_ext.interop import load_weights
from upernet_ext.registry import MODELS

BACKBONES = {
    'resnet': dict(
        type='mmseg.ResNetV1c', depth=18, base_channels=8, stem_channels=8
    ),
    'swin': dict(
        type='mmseg.SwinTransformer',
        embed_dims=8,
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
        window_size=4,
    ),
    'mobilenetv2': dict(
        type='mmseg.MobileNetV2', widen_factor=0.25, out_indices=(1, 2, 4, 6)
    ),
}
CHANNELS = {
    'resnet': [8, 16, 32, 64],
    'swin': [8, 16, 32, 64],
    'mobilenetv2': [8, 8, 24, 80],
}
NORM = dict(type='BN')
LOSS = dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True)
HEAD = dict(channels=8, norm_cfg=NORM, dropout_ratio=0.1)
AUX = dict(
    channels=8, in_index=2, num_convs=1, concat_input=False, norm_cfg=NORM
)


def _theirs(name: str) -> torch.nn.Module:
    channels = CHANNELS[name]
    model = MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            data_preprocessor=dict(type='mmseg.SegDataPreProcessor'),
            backbone=BACKBONES[name],
            decode_head=dict(
                HEAD,
                type='mmseg.UPerHead',
                in_channels=channels,
                in_index=[0, 1, 2, 3],
                num_classes=5,
                loss_decode=LOSS,
            ),
            auxiliary_head=dict(
                AUX,
                type='mmseg.FCNHead',
                in_channels=channels[2],
                num_classes=5,
                loss_decode=LOSS,
            ),
            test_cfg=ConfigDict(mode='whole'),
        )
    )
    for key, value in model.state_dict().items():
        if 'running_var' in key:
            value.uniform_(0.5, 2)
        elif 'running_mean' in key or 'conv_seg' in key:
            value.normal_(std=0.2)
    return model.eval()


@pytest.mark.parametrize('name', BACKBONES)
@torch.no_grad()
def test_model_of_mmseg_loads_and_predicts_the_same(name: str) -> None:
    theirs = _theirs(name)
    ours = MODELS.build(
        dict(
            type='upernet_ext.EncoderDecoder',
            backbone=BACKBONES[name],
            decode_head=dict(HEAD, type='upernet_ext.UPerHead'),
            auxiliary_head=dict(AUX, type='upernet_ext.FCNHead'),
            num_classes=5,
            test_cfg=dict(keep_logits=True),
        )
    ).eval()
    receipt = load_weights(ours, theirs.state_dict(), source='mmseg')
    assert len(receipt.matched) == len(theirs.state_dict())
    image = torch.randn(2, 3, 200, 264)
    meta = dict(
        ori_shape=(100, 132), img_shape=(200, 264), pad_shape=(200, 264)
    )
    samples = [[SegDataSample(metainfo=meta) for _ in image] for _ in 'ab']
    for mine, yours in zip(
        ours.predict(image, samples[0]),
        theirs.predict(image, samples[1]),
        strict=True,
    ):
        torch.testing.assert_close(
            mine.seg_logits.data, yours.seg_logits.data, rtol=1e-5, atol=1e-5
        )
        assert torch.equal(mine.pred_sem_seg.data, yours.pred_sem_seg.data)


@torch.no_grad()
def test_heads_of_mmseg_work_in_our_segmentor() -> None:
    theirs = _theirs('resnet')
    ours = MODELS.build(
        dict(
            type='upernet_ext.EncoderDecoder',
            backbone=BACKBONES['resnet'],
            decode_head=dict(
                HEAD,
                type='mmseg.UPerHead',
                in_index=[0, 1, 2, 3],
                loss_decode=LOSS,
            ),
            auxiliary_head=dict(AUX, type='mmseg.FCNHead', loss_decode=LOSS),
            num_classes=5,
        )
    ).eval()
    load_weights(ours, theirs.state_dict(), source='mmseg')
    image = torch.randn(1, 3, 96, 128)
    meta = [dict(img_shape=(96, 128))]
    torch.testing.assert_close(
        ours.encode_decode(image), theirs.encode_decode(image, meta)
    )
