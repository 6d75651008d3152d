"""A model goes into a folder and comes back."""

import copy
import json

import pytest
import torch
from torch import nn

from upernet_ext.interop import WeightsError
from upernet_ext.models import EncoderDecoder
from upernet_ext.models.segmentors.saved_model import check_types
from upernet_ext.registry import MODELS

CONFIGS = {
    2: dict(
        type='upernet_ext.VisionTransformer',
        arch=dict(embed_dims=8, num_layers=4, num_heads=2),
        patch_size=8,
        img_size=32,
        out_indices=(0, 1, 2, 3),
    ),
    3: dict(
        type='upernet_ext.ConvNeXt',
        depths=(1, 1, 1, 1),
        projection_dims=(4, 4, 8, 8),
    ),
}


def _model(spatial_dims: int = 2, **options) -> EncoderDecoder:
    model = MODELS.build(
        dict(
            type='upernet_ext.EncoderDecoder',
            backbone=CONFIGS[spatial_dims],
            decode_head=dict(
                type='upernet_ext.UPerHead',
                channels=8,
                norm_cfg=dict(type='BN'),
            ),
            data_preprocessor=dict(
                type='upernet_ext.SegDataPreProcessor',
                mean=(1.0, 2.0),
                std=(3.0, 4.0),
            ),
            num_classes=3,
            in_channels=2,
            spatial_dims=spatial_dims,
            **options,
        )
    )
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            value.normal_(std=0.3)
        if 'running_var' in name:
            value.uniform_(0.5, 2)
    return model.eval()


@pytest.mark.parametrize('spatial_dims', [2, 3])
@torch.no_grad()
def test_the_same_model_comes_back(tmp_path, spatial_dims: int) -> None:
    model = _model(spatial_dims)
    model.dataset_meta = dict(classes=('a', 'b', 'c'), palette=[[0, 1, 2]] * 3)
    folder = model.save_pretrained(tmp_path / 'new' / 'folder')
    found = EncoderDecoder.from_pretrained(folder)
    assert not found.training
    x = torch.randn(1, 2, *[32] * spatial_dims)
    assert torch.equal(found(x), model(x))
    for name, value in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], value)
    assert found.dataset_meta['classes'] == ['a', 'b', 'c']
    assert found.data_preprocessor.mean.flatten().tolist() == [1, 2]
    assert found.data_preprocessor.std.flatten().tolist() == [3, 4]
    assert found.receipt.source == str(folder)
    assert set(found.receipt.parameters) == {'backbone', 'decode_head'}
    # A second round, from the model that came back, and from a copy.
    again = copy.deepcopy(found).save_pretrained(tmp_path / 'again')
    stored = json.loads((again / 'config.json').read_text())
    assert stored['meta']['receipt']['source'] == str(folder)
    assert torch.equal(EncoderDecoder.from_pretrained(again)(x), model(x))


def test_published_weights_of_the_backbone_are_not_asked_again(
    tmp_path,
) -> None:
    model = _model()
    model.init_arguments['backbone']['pretrained'] = '/elsewhere/vit.pth'
    config = model.save_pretrained(tmp_path) / 'config.json'
    assert 'elsewhere' not in config.read_text()


def test_a_built_backbone_cannot_be_described(tmp_path) -> None:
    built = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4))
    model = EncoderDecoder(
        built, dict(type='upernet_ext.FCNHead', channels=4), num_classes=2
    )
    with pytest.raises(ValueError, match='backbone of the model is a Sequ'):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize(
    'kind',
    [
        'os.makedirs',
        'mmengine.mkdir_or_exist',
        'mmengine.Config',
        'antigravity',
        'upernet_ext.apis.predict',
        7,
    ],
)
def test_a_config_builds_parts_of_a_model_only(tmp_path, kind) -> None:
    folder = _model().save_pretrained(tmp_path / 'a')
    path = folder / 'config.json'
    config = json.loads(path.read_text())
    trace = tmp_path / 'it-ran'
    config['model']['decode_head']['norm_cfg'] = dict(
        type=kind, name=str(trace)
    )
    path.write_text(json.dumps(config))
    with pytest.raises(
        WeightsError, match=r'decode_head\.norm_cfg\.type=.* is no part'
    ):
        EncoderDecoder.from_pretrained(folder)
    assert not trace.exists()


def test_parts_of_the_libraries_are_accepted() -> None:
    parts = [
        dict(type='mmseg.ResNetV1c', norm_cfg=dict(type='SyncBN')),
        dict(type='ReLU', init_cfg=dict(type='Normal', std=0.01)),
        dict(sampler=dict(type='OHEMPixelSampler')),
    ]
    check_types(parts, source='a')


def test_other_folders_and_other_classes_are_named(tmp_path) -> None:
    folder = _model().save_pretrained(tmp_path / 'a')

    class Other(EncoderDecoder):
        pass

    with pytest.raises(WeightsError, match='holds a EncoderDecoder, not a Ot'):
        Other.from_pretrained(folder)
    (folder / 'config.json').write_text('{"model_type": "vit"}')
    with pytest.raises(WeightsError, match='not written by save_pretrained'):
        EncoderDecoder.from_pretrained(folder)
    (folder / 'config.json').write_text('{')
    with pytest.raises(WeightsError, match='not JSON'):
        EncoderDecoder.from_pretrained(folder)
