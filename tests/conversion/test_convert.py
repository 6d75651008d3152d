"""Whole models go to other libraries and come back the same."""

import json

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from safetensors.torch import save_file

from upernet_ext.conversion import convert
from upernet_ext.interop import read_checkpoint
from upernet_ext.models import EncoderDecoder
from upernet_ext.models.backbones import build_backbone
from upernet_ext.models.backbones.encoders import ENCODERS
from upernet_ext.registry import MODELS

from .conftest import (
    BACKBONES,
    NECK,
    QUIET,
    five_levels,
    round_trip,
    same_tensors,
    small_model,
)

pytestmark = QUIET


@pytest.mark.parametrize('name', ['swin', 'resnet', 'vit'])
def test_to_mmseg_and_back(tmp_path, name: str) -> None:
    # A plain ViT gets the neck, a hierarchical one none.
    options = dict(neck=NECK) if name == 'vit' else {}
    model = small_model(name, **options)
    round_trip(model, tmp_path / 'mm.pth', 'mmseg')
    # Without our config, the backbone is borrowed from mmseg.
    result = convert(tmp_path / 'mm.pth', tmp_path / 'c', to='upernet_ext')
    assert result.source == 'mmseg'
    cfg = Config.fromfile(tmp_path / 'mm.py')
    assert cfg.model.type == 'mmseg.EncoderDecoder'
    assert cfg.model.data_preprocessor.mean == [127.5] * 3
    convert(tmp_path / 'c', tmp_path / 'again.pth', to='mmseg')
    published = read_checkpoint(tmp_path / 'mm.pth')['state_dict']
    for path in ('c', 'again.pth'):
        weights = read_checkpoint(tmp_path / path)['state_dict']
        assert same_tensors(weights, published)
    assert same_tensors(
        weights, read_checkpoint(tmp_path / 'mm.pth')['state_dict']
    )


def test_a_model_of_mmseg_itself_and_back(tmp_path) -> None:
    """A stock config of mmseg, with what its model zoo files hold."""
    norm = dict(type='SyncBN', requires_grad=True)
    head = dict(
        channels=8,
        num_classes=3,
        norm_cfg=norm,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
    )
    cfg = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', bgr_to_rgb=True),
        pretrained=None,
        backbone=dict(
            BACKBONES['resnet'],
            type='ResNetV1c',
            norm_cfg=norm,
            style='pytorch',
        ),
        decode_head=dict(
            head,
            type='UPerHead',
            in_channels=[8, 16, 32, 64],
            in_index=[0, 1, 2, 3],
            pool_scales=(1, 2, 3, 6),
        ),
        auxiliary_head=dict(
            head,
            type='FCNHead',
            in_channels=32,
            in_index=2,
            num_convs=1,
            concat_input=False,
        ),
        train_cfg=dict(),
        test_cfg=dict(mode='whole'),
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        theirs = MODELS.build(ConfigDict(cfg))
    meta = dict(
        cfg=Config(dict(default_scope='mmseg', model=cfg)).pretty_text,
        dataset_meta=dict(classes=['a', 'b', 'c']),
    )
    weights = theirs.state_dict()
    torch.save(dict(meta=meta, state_dict=weights), tmp_path / 'zoo.pth')
    convert(tmp_path / 'zoo.pth', tmp_path / 'ours', to='upernet_ext')
    convert(tmp_path / 'ours', tmp_path / 'back.pth', to='mmseg')
    assert same_tensors(
        read_checkpoint(tmp_path / 'back.pth')['state_dict'], dict(weights)
    )


def test_a_model_of_transformers_itself_and_back(tmp_path) -> None:
    from transformers import (
        ConvNextConfig,
        UperNetConfig,
        UperNetForSemanticSegmentation,
    )

    backbone = ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1, 1, 2, 1],
        out_features=['stage1', 'stage2', 'stage3', 'stage4'],
    )
    theirs = UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=backbone,
            hidden_size=8,
            auxiliary_in_channels=16,
            auxiliary_channels=4,
            num_labels=5,
        )
    )
    theirs.save_pretrained(tmp_path / 'published')
    convert(tmp_path / 'published', tmp_path / 'ours', to='upernet_ext')
    convert(tmp_path / 'ours', tmp_path / 'back', to='transformers')
    found = UperNetForSemanticSegmentation.from_pretrained(tmp_path / 'back')
    assert same_tensors(found.state_dict(), theirs.state_dict())
    # On maps of fewer cells than a pooling scale ours clips the scale.
    x = torch.randn(1, 3, 96, 192)
    ours = EncoderDecoder.from_pretrained(tmp_path / 'ours')
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs.eval()(x).logits)


@pytest.mark.parametrize(
    ('options', 'kind'),
    [
        (dict(arch='resnet18'), 'ResNet'),
        (dict(arch='resnet18vd'), 'ResNetV1d'),
        (dict(arch='resnet50vc', output_stride=8), 'ResNetV1c'),
        (dict(arch='resnet50', output_stride=16), 'ResNet'),
    ],
)
def test_our_resnet_to_mmseg_and_back(tmp_path, options, kind) -> None:
    backbone = dict(BACKBONES['ours'], **options)
    model = small_model('ours', **five_levels(backbone=backbone))
    round_trip(model, tmp_path / 'mm.pth', 'mmseg')
    cfg = Config.fromfile(tmp_path / 'mm.py').model
    assert cfg.backbone.type == f'mmseg.{kind}'
    assert cfg.decode_head.in_index == [0, 1, 2, 3]
    assert cfg.auxiliary_head.in_index == 2


@pytest.mark.parametrize('arch', ['resnet18', 'resnet50'])
def test_our_resnet_to_transformers_and_back(tmp_path, arch: str) -> None:
    backbone = dict(BACKBONES['ours'], arch=arch)
    model = small_model('ours', **five_levels(backbone=backbone))
    round_trip(model, tmp_path / 'tf', 'transformers')


@pytest.mark.needs_torchvision
def test_to_mmpretrain_and_back(tmp_path) -> None:
    round_trip(small_model('convnext'), tmp_path / 'mm.pth', 'mmseg')


def test_deeplab_to_mmseg_and_back(tmp_path) -> None:
    head = dict(
        type='upernet_ext.DeepLabV3PlusHead',
        channels=8,
        c1_channels=4,
        dilations=(1, 2, 3),
        rates='fixed',
        norm_cfg=dict(type='BN'),
    )
    round_trip(
        small_model('resnet', decode_head=head), tmp_path / 'mm.pth', 'mmseg'
    )
    convert(tmp_path / 'mm.pth', tmp_path / 'c', to='upernet_ext')


@pytest.mark.parametrize(
    'name', ['swin', 'convnext', 'dinov2', 'registers', 'transformers']
)
def test_to_transformers_and_back(tmp_path, name: str) -> None:
    round_trip(small_model(name), tmp_path / 'tf', 'transformers')
    config = json.loads((tmp_path / 'tf' / 'config.json').read_text())
    assert config['architectures'] == ['UperNetForSemanticSegmentation']
    assert config['id2label'] == {'0': 'sky', '1': 'road', '2': 'car'}
    images = json.loads(
        (tmp_path / 'tf' / 'preprocessor_config.json').read_text()
    )
    assert images['image_mean'] == [0.5] * 3
    assert images['image_std'] == pytest.approx([0.2] * 3)
    # Without our config, the backbone is transformers' own.
    result = convert(tmp_path / 'tf', tmp_path / 'c', to='upernet_ext')
    assert result.source == 'transformers'
    assert result.equal_labels == 1


def test_from_mmseg_to_transformers(tmp_path) -> None:
    source = small_model('swin').save_pretrained(tmp_path / 'a')
    convert(source, tmp_path / 'mm.pth', to='mmseg')
    result = convert(tmp_path / 'mm.pth', tmp_path / 'tf', to='transformers')
    assert (result.source, result.target) == ('mmseg', 'transformers')


def test_a_model_without_auxiliary_head(tmp_path) -> None:
    model = small_model('swin', auxiliary_head=None)
    round_trip(model, tmp_path / 'tf', 'transformers')
    convert(tmp_path / 'tf', tmp_path / 'mm.pth', to='transformers')


def test_backbone_of_a_published_file(tmp_path) -> None:
    model = small_model('swin')
    source = tmp_path / 'swin.safetensors'
    save_file(
        {f'backbone.{k}': v for k, v in model.backbone.state_dict().items()},
        source,
    )
    config = tmp_path / 'ours.py'
    given = dict(model.init_arguments, type='upernet_ext.EncoderDecoder')
    Config(dict(model=given)).dump(config)
    ours = tmp_path / 'b.safetensors'
    result = convert(source, ours, to='upernet_ext', config=config)
    assert result.max_difference == 0
    assert result.equal_labels is None
    result = convert(source, tmp_path / 'tf', to='transformers', config=config)
    assert result.max_difference <= 1e-5 * max(1, result.scale)
    result = convert(
        source, tmp_path / 'm.safetensors', to='mmseg', config=config
    )
    assert result.max_difference == 0


@pytest.mark.needs_torchvision
@pytest.mark.parametrize('name', ['convnext_v2_atto', 'efficientnet_b0'])
def test_backbone_to_timm(tmp_path, name: str) -> None:
    backbone, _ = build_backbone(
        ENCODERS[name].backbone, in_channels=3, spatial_dims=2
    )
    weights = backbone.state_dict()
    for value in weights.values():
        if value.is_floating_point():
            value.uniform_(0.01, 0.2)
    save_file(weights, tmp_path / 'a.safetensors')
    result = convert(
        tmp_path / 'a.safetensors',
        tmp_path / 'b.safetensors',
        to='timm',
        config=name,
    )
    assert result.target == 'timm'
    assert result.scale > 0
    assert result.max_difference <= 1e-4 * result.scale


def test_timm_without_a_known_name_is_not_checked_and_says_so(
    tmp_path, caplog
) -> None:
    source = small_model('vit').save_pretrained(tmp_path / 'a')
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    assert convert(source, tmp_path / 'b.safetensors', to='timm') is None
    logger.removeHandler(caplog.handler)
    assert 'NUMBERS WERE NOT CHECKED' in caplog.records[-1].message
    names = read_checkpoint(tmp_path / 'b.safetensors')['state_dict']
    assert 'blocks.0.attn.qkv.weight' in names
