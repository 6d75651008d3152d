"""Whole models go to other libraries and come back the same."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from safetensors.torch import save_file

from upernet_ext.config import ConfigError
from upernet_ext.conversion import TARGETS, comparison, convert, describe
from upernet_ext.conversion.sources import build, our_peer
from upernet_ext.interop import WeightsError, read_checkpoint
from upernet_ext.models import EncoderDecoder
from upernet_ext.models.backbones import build_backbone
from upernet_ext.models.backbones.encoders import ENCODERS
from upernet_ext.registry import MODELS

_SPEC = importlib.util.spec_from_file_location(
    'convert_tool', Path(__file__).parents[2] / 'tools' / 'convert.py'
)
_TOOL = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_TOOL)
pytestmark = [
    pytest.mark.filterwarnings('ignore::FutureWarning'),
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
    pytest.mark.filterwarnings('ignore::UserWarning:transformers'),
]
PLAIN = dict(
    type='upernet_ext.VisionTransformer',
    patch_size=8,
    img_size=64,
    out_indices=(0, 1, 2, 3),
)
SMALL = dict(embed_dims=8, num_layers=4, num_heads=2)
BACKBONES = {
    'swin': dict(
        type='mmseg.SwinTransformer',
        embed_dims=8,
        depths=(1, 2, 1, 1),
        num_heads=(1, 1, 2, 2),
        window_size=4,
    ),
    'resnet': dict(
        type='mmseg.ResNetV1c', depth=18, base_channels=8, stem_channels=8
    ),
    'ours': dict(type='upernet_ext.ResNet', arch='resnet18', base_channels=8),
    'convnext': dict(
        type='upernet_ext.ConvNeXt',
        depths=(1, 1, 2, 1),
        projection_dims=(8, 8, 16, 16),
        output_norm=True,
    ),
    'vit': dict(PLAIN, arch=SMALL),
    'dinov2': dict(PLAIN, arch=dict(SMALL, init_values=1.0, final_norm=True)),
    'registers': dict(
        PLAIN,
        arch=dict(SMALL, init_values=1.0, final_norm=True, num_registers=2),
    ),
    'transformers': dict(
        type='upernet_ext.TransformersBackbone',
        model_type='convnext',
        config=dict(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1]),
    ),
}
NECK = dict(type='upernet_ext.MultiLevelNeck', out_channels=8)
AUXILIARY = dict(
    type='upernet_ext.FCNHead',
    channels=6,
    in_index=2,
    num_convs=1,
    concat_input=False,
    norm_cfg=dict(type='BN'),
)


def _model(name: str, **options) -> EncoderDecoder:
    model = build(
        dict(
            dict(
                type='upernet_ext.EncoderDecoder',
                backbone=BACKBONES[name],
                decode_head=dict(
                    type='upernet_ext.UPerHead',
                    channels=8,
                    pool_scales=(1, 3),
                    norm_cfg=dict(type='BN'),
                ),
                auxiliary_head=AUXILIARY,
                data_preprocessor=dict(
                    type='upernet_ext.SegDataPreProcessor',
                    mean=[127.5] * 3,
                    std=[51.0] * 3,
                ),
                num_classes=3,
            ),
            **options,
        )
    )
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            value.normal_(std=0.3)
        if 'running_var' in key:
            value.uniform_(0.5, 2)
    model.dataset_meta = dict(classes=['sky', 'road', 'car'])
    return model.eval()


def _five_levels(**options) -> dict:
    """Change what differs where the stem is a level, too."""
    return dict(auxiliary_head=dict(AUXILIARY, in_index=3), **options)


def _equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _round_trip(model: EncoderDecoder, there: Path, to: str) -> EncoderDecoder:
    """Convert, check the receipts, and convert back to the same network."""
    root = there.parent
    first = convert(model.save_pretrained(root / 'a'), there, to=to)
    assert (first.source, first.target) == ('upernet_ext', to)
    assert first.max_difference <= 1e-5 * max(1, first.scale)
    assert first.equal_labels == 1
    config = root / 'ours.py'
    given = dict(model.init_arguments, type='upernet_ext.EncoderDecoder')
    Config(dict(model=given)).dump(config)
    back = convert(there, root / 'b', to='upernet_ext', config=config)
    assert (back.source, back.target) == (to, 'upernet_ext')
    assert back.max_difference <= 1e-5 * max(1, back.scale)
    found = EncoderDecoder.from_pretrained(root / 'b')
    assert _equal(found.state_dict(), model.state_dict())
    assert found.dataset_meta['classes'] == ['sky', 'road', 'car']
    x = torch.randn(1, 3, 64, 72)
    with torch.no_grad():
        assert torch.equal(found(x), model(x))
    return found


@pytest.mark.parametrize('name', ['swin', 'resnet', 'vit'])
def test_to_mmseg_and_back(tmp_path, name: str) -> None:
    # A plain ViT gets the neck, a hierarchical one none.
    options = dict(neck=NECK) if name == 'vit' else {}
    model = _model(name, **options)
    _round_trip(model, tmp_path / 'mm.pth', 'mmseg')
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
        assert _equal(weights, published)
    assert _equal(weights, read_checkpoint(tmp_path / 'mm.pth')['state_dict'])


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
    assert _equal(
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
    assert _equal(found.state_dict(), theirs.state_dict())
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
    model = _model('ours', **_five_levels(backbone=backbone))
    _round_trip(model, tmp_path / 'mm.pth', 'mmseg')
    cfg = Config.fromfile(tmp_path / 'mm.py').model
    assert cfg.backbone.type == f'mmseg.{kind}'
    assert cfg.decode_head.in_index == [0, 1, 2, 3]
    assert cfg.auxiliary_head.in_index == 2


@pytest.mark.parametrize('arch', ['resnet18', 'resnet50'])
def test_our_resnet_to_transformers_and_back(tmp_path, arch: str) -> None:
    backbone = dict(BACKBONES['ours'], arch=arch)
    model = _model('ours', **_five_levels(backbone=backbone))
    _round_trip(model, tmp_path / 'tf', 'transformers')


def test_resnets_that_others_lack_are_named(tmp_path) -> None:
    for arch in ('seresnet18', 'wide_resnet50_2'):
        backbone = dict(BACKBONES['ours'], arch=arch)
        model = _model('ours', **_five_levels(backbone=backbone))
        source = model.save_pretrained(tmp_path / arch)
        with pytest.raises(ConfigError, match=f'not {arch} of depths'):
            convert(source, tmp_path / 'b.pth', to='mmseg')
        with pytest.raises(ConfigError, match='has the plain ones'):
            convert(source, tmp_path / 'b', to='transformers')
    source = _model(
        'ours', auxiliary_head=dict(AUXILIARY, in_index=0)
    ).save_pretrained(tmp_path / 'stem')
    with pytest.raises(ConfigError, match="level of the ResNet's stem"):
        convert(source, tmp_path / 'b.pth', to='mmseg')


@pytest.mark.needs_torchvision
def test_to_mmpretrain_and_back(tmp_path) -> None:
    _round_trip(_model('convnext'), tmp_path / 'mm.pth', 'mmseg')


def test_deeplab_to_mmseg_and_back(tmp_path) -> None:
    head = dict(
        type='upernet_ext.DeepLabV3PlusHead',
        channels=8,
        c1_channels=4,
        dilations=(1, 2, 3),
        rates='fixed',
        norm_cfg=dict(type='BN'),
    )
    _round_trip(
        _model('resnet', decode_head=head), tmp_path / 'mm.pth', 'mmseg'
    )
    convert(tmp_path / 'mm.pth', tmp_path / 'c', to='upernet_ext')


@pytest.mark.parametrize(
    'name', ['swin', 'convnext', 'dinov2', 'registers', 'transformers']
)
def test_to_transformers_and_back(tmp_path, name: str) -> None:
    _round_trip(_model(name), tmp_path / 'tf', 'transformers')
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
    source = _model('swin').save_pretrained(tmp_path / 'a')
    convert(source, tmp_path / 'mm.pth', to='mmseg')
    result = convert(tmp_path / 'mm.pth', tmp_path / 'tf', to='transformers')
    assert (result.source, result.target) == ('mmseg', 'transformers')


def test_a_model_without_auxiliary_head(tmp_path) -> None:
    model = _model('swin', auxiliary_head=None)
    _round_trip(model, tmp_path / 'tf', 'transformers')
    convert(tmp_path / 'tf', tmp_path / 'mm.pth', to='transformers')


@pytest.mark.parametrize(
    ('options', 'to', 'message'),
    [
        (dict(neck=NECK), 'transformers', 'has no neck'),
        (
            dict(auxiliary_head=dict(AUXILIARY, in_index=1)),
            'transformers',
            r'auxiliary_head only, .* in_index=1 \(there: 2\)',
        ),
        (
            dict(
                decode_head=dict(
                    type='upernet_ext.UPerHead',
                    channels=8,
                    norm_cfg=dict(type='GN', num_groups=2),
                )
            ),
            'transformers',
            r"norm_cfg='GN' \(there: 'BN'\)",
        ),
        (
            dict(
                decode_head=dict(
                    type='upernet_ext.UPerHead', channels=8, top_down='fused'
                )
            ),
            'mmseg',
            "cannot do {'top_down': 'fused'}",
        ),
    ],
)
def test_what_the_other_library_lacks_is_named(
    tmp_path, options, to, message
) -> None:
    source = _model('swin', **options).save_pretrained(tmp_path / 'a')
    with pytest.raises(ConfigError, match=message):
        convert(source, tmp_path / 'b.pth', to=to)


def test_backbones_without_counterpart_are_named(tmp_path) -> None:
    for name, to in [('resnet', 'transformers'), ('transformers', 'mmseg')]:
        source = _model(name).save_pretrained(tmp_path / name)
        with pytest.raises(ConfigError, match='has no counterpart in'):
            convert(source, tmp_path / 'b.pth', to=to)


@pytest.mark.parametrize('damage', ['renamed', 'shape', 'prefix'])
@pytest.mark.parametrize('to', ['mmseg', 'transformers'])
def test_a_damaged_file_is_refused_by_name(tmp_path, to, damage) -> None:
    model = _model('swin')
    config = tmp_path / 'ours.py'
    given = dict(model.init_arguments, type='upernet_ext.EncoderDecoder')
    Config(dict(model=given)).dump(config)
    folder = model.save_pretrained(tmp_path / 'a')
    convert(folder, tmp_path / 'b.pth', to=to)
    weights = read_checkpoint(tmp_path / 'b.pth')['state_dict']
    name = 'decode_head.fpn_bottleneck.conv.weight'
    value = weights.pop(name)
    if damage == 'renamed':
        weights['decode_head.fpn_bottelneck.conv.weight'] = value
        message = r'fpn_bottleneck.* \(the file has .*fpn_bottelneck'
    elif damage == 'shape':
        weights[name] = value[:, :3].contiguous()
        message = rf'{name} \(\(8, 3, 3, 3\) in the file'
    else:
        weights[name] = value
        weights = {f'decode_head.wrong.{k}': v for k, v in weights.items()}
        message = r'lacks: .*wrong\.'
    path = tmp_path / 'damaged.safetensors'
    save_file(weights, path)
    with pytest.raises(WeightsError, match=message):
        convert(path, tmp_path / 'c', to='upernet_ext', config=config)


def test_numbers_that_differ_are_an_error(tmp_path, monkeypatch) -> None:
    source = _model('swin').save_pretrained(tmp_path / 'a')
    other = our_peer(_model('swin'))
    monkeypatch.setitem(TARGETS, 'mmseg', lambda read, path: other)
    with pytest.raises(WeightsError, match='does not compute the same'):
        convert(source, tmp_path / 'b.pth', to='mmseg')


def test_comparison_measures_the_largest_difference() -> None:
    one = comparison.Peer('a', torch.nn.Identity(), lambda x: [x])
    two = comparison.Peer(
        'b', torch.nn.Identity(), lambda x: [x + torch.eye(4)]
    )
    result = comparison.compare(one, two, (1, 2, 4, 4))
    assert result.max_difference == 1
    assert result.equal_labels == 1  # both classes move together
    flipped = comparison.Peer('c', torch.nn.Identity(), lambda x: [x.flip(1)])
    assert comparison.compare(one, flipped, (1, 2, 4, 4)).equal_labels == 0
    small = comparison.Peer(
        'd', torch.nn.Identity(), lambda x: [x[..., :2], x]
    )
    with pytest.raises(ValueError, match='d \\[\\(1, 2, 4, 2'):
        comparison.compare(one, small, (1, 2, 4, 4))


def test_backbone_of_a_published_file(tmp_path) -> None:
    model = _model('swin')
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
    source = _model('vit').save_pretrained(tmp_path / 'a')
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    assert convert(source, tmp_path / 'b.safetensors', to='timm') is None
    logger.removeHandler(caplog.handler)
    assert 'NUMBERS WERE NOT CHECKED' in caplog.records[-1].message
    names = read_checkpoint(tmp_path / 'b.safetensors')['state_dict']
    assert 'blocks.0.attn.qkv.weight' in names


def test_tool_converts_and_shows(tmp_path, capsys) -> None:
    model = _model('convnext')
    folder = model.save_pretrained(tmp_path / 'a')
    _TOOL.main([str(folder), str(tmp_path / 'tf'), '--to', 'transformers'])
    _TOOL.main(
        [str(tmp_path / 'tf'), str(tmp_path / 'b'), '--to', 'upernet_ext']
    )
    capsys.readouterr()
    _TOOL.main(['--show', str(tmp_path / 'b')])
    shown = capsys.readouterr().out
    assert 'transformers (convnext)' in shown
    assert 'classes: sky, road, car' in shown
    assert f'loaded from {tmp_path / "tf"}' in shown
    numbers = {
        part: sum(
            p.numel() for p in getattr(model, part).state_dict().values()
        )
        for part in ('decode_head', 'auxiliary_head')
    }
    for part, number in numbers.items():
        assert any(
            line.split() == [part, f'{number:,}']
            for line in shown.splitlines()
        )


def test_show_names_the_style_of_any_file(tmp_path) -> None:
    weights = {
        f'module.layers.0.blocks.0.attn.{k}': torch.zeros(2, 2) for k in 'ab'
    }
    torch.save({'model': weights}, tmp_path / 'a.pth')
    shown = describe(tmp_path / 'a.pth')
    assert "official (mmseg.SwinTransformer) behind 'module.'" in shown
    assert '2 tensors, 8 values' in shown
    assert 'no receipt in it' in shown


def test_tool_says_what_is_missing(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        _TOOL.main(['only-a-source.pth'])
    assert 'give SRC, DST and --to' in capsys.readouterr().err
    source = tmp_path / 'a.pth'
    torch.save({'a': torch.zeros(1)}, source)
    with pytest.raises(SystemExit, match='has no config in it'):
        _TOOL.main([str(source), str(tmp_path / 'b'), '--to', 'mmseg'])
    with pytest.raises(ConfigError, match='neither a config file'):
        convert(source, tmp_path / 'b', to='mmseg', config='vitt')
