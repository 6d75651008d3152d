"""Every registered type is built here, through its registry."""

import importlib

import pytest
import torch
from mmengine.registry import Registry

from upernet_ext import registry

NECK_CHANNELS = [8] * 4
VIT = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=8, num_layers=4, num_heads=2),
    out_indices=(0, 1, 2, 3),
    img_size=32,
)
HEAD = dict(num_classes=2, channels=4)
# Registry -> type -> arguments. The test fails when a type is missing here.
BUILDS = {
    'MODELS': {
        'BatchNorm2d': dict(num_features=2),
        'BatchNorm3d': dict(num_features=2),
        'SyncBatchNorm': dict(num_features=2),
        'InstanceNorm2d': dict(num_features=2),
        'InstanceNorm3d': dict(num_features=2),
        'GroupNorm': dict(num_channels=4),
        'CrossEntropyLoss': {},
        'DiceLoss': {},
        'DiceCELoss': {},
        'FocalLoss': {},
        'MultiLevelNeck': dict(in_channels=NECK_CHANNELS, out_channels=4),
        'Feature2Pyramid': dict(in_channels=NECK_CHANNELS),
        'UPerHead': dict(HEAD, in_channels=NECK_CHANNELS),
        'FCNHead': dict(HEAD, in_channels=8),
        'DeepLabV3PlusHead': dict(HEAD, in_channels=[4, 8]),
        'VisionTransformer': {k: v for k, v in VIT.items() if k != 'type'},
        'ConvNeXt': dict(depths=[1] * 4, projection_dims=[4] * 4),
        'DenseNet': dict(block_layers=(1, 1, 1, 1), growth=4),
        'EfficientNet': dict(arch='mobilenetv2_050', width=0.1),
        'MiT': dict(depths=[1] * 4, projection_dims=[8, 16, 40, 8]),
        'RegNet': dict(arch='regnetx_002', out_indices=(0, 1)),
        'ResNet': dict(arch='resnet18', base_channels=8),
        'ResNetV2': dict(depths=(1, 1, 1, 1), base_channels=8),
        'SwinTransformer': dict(
            depths=[1], embed_dims=4, num_heads=[1], window_size=2
        ),
        'Xception': dict(out_indices=(0, 1)),
        # timm is optional: tests/models/backbones/test_timm_backbone.py.
        'TimmBackbone': None,
        'TransformersBackbone': dict(
            model_type='convnext',
            config=dict(hidden_sizes=[4] * 4, depths=[1] * 4),
        ),
        'SegDataPreProcessor': {},
        'EncoderDecoder': dict(
            backbone=dict(VIT, type='upernet_ext.VisionTransformer'),
            decode_head=dict(HEAD, type='upernet_ext.UPerHead'),
        ),
        'ViTUPerNet': dict(
            backbone=dict(VIT, type='upernet_ext.VisionTransformer'),
            decode_head=dict(HEAD, type='upernet_ext.UPerHead', upsampler={}),
        ),
    },
    'DATASETS': {
        'FolderDataset': dict(
            data_root='unused', classes=['a', 'b'], lazy_init=True
        ),
        'MNI152Dataset': dict(split='val', lazy_init=True),
        'NnUNetDataset': dict(dataset=4, lazy_init=True),
        'VolumeFolderDataset': dict(data_root='unused', lazy_init=True),
    },
    'TRANSFORMS': {
        'CropPatch': dict(size=(2, 2, 2)),
        'LoadCase': {},
        'LoadImage': {},
        'LoadMask': dict(num_classes=2),
        'MonaiTransform': dict(name='RandFlipd'),
        'PackInputs': {},
        'PhotoMetricDistortion': {},
        'RandomBrightness': {},
        'RandomContrast': {},
        'RandomCrop': dict(crop_size=4),
        'RandomGamma': {},
        'RandomGaussianBlur': {},
        'RandomGaussianNoise': {},
        'RandomLowResolution': {},
        'RandomMirror': {},
        'RandomResizeCrop': dict(
            scale=(8, 8), crop_size=4, ratio_range=(1, 2)
        ),
    },
    'METRICS': {'CaseMetric': {}, 'IoUMetric': {}},
    'HOOKS': {
        'SavePictures': {},
        'SaveLabelMaps': dict(out_dir='unused'),
        'SaveTrainable': {},
    },
    'LOG_PROCESSORS': {'LogProcessor': {}},
    'OPTIM_WRAPPERS': {
        'AmpOptimWrapper': dict(
            optimizer=torch.optim.SGD([torch.zeros(1)], lr=1),
            dtype='bfloat16',
        ),
    },
    'OPTIM_WRAPPER_CONSTRUCTORS': {
        'LayerDecayConstructor': dict(
            optim_wrapper_cfg=dict(optimizer=dict(type='SGD', lr=1))
        ),
    },
    # A Runner takes a whole experiment: tests/engine/test_runner.py.
    'RUNNERS': {'Runner': None},
}
REGISTRIES = {
    name: value
    for name, value in vars(registry).items()
    if isinstance(value, Registry)
}


@pytest.mark.parametrize('name', REGISTRIES)
def test_every_registered_type_is_built(name: str) -> None:
    children = REGISTRIES[name]
    assert children.scope == 'upernet_ext'
    children.import_from_location()
    assert set(children.module_dict) == set(BUILDS[name])
    for kind, arguments in BUILDS[name].items():
        if arguments is None:
            continue
        # From the root, as a config of any default scope does.
        built = children.parent.build(
            dict(type=f'upernet_ext.{kind}', **arguments)
        )
        assert type(built) is children.module_dict[kind]


@pytest.mark.parametrize(
    'package',
    [
        *('models', 'datasets', 'datasets.transforms', 'evaluation'),
        *('engine', 'compat'),
    ],
)
def test_exports_exist(package: str) -> None:
    module = importlib.import_module(f'upernet_ext.{package}')
    assert sorted(module.__all__) == sorted(set(module.__all__))
    for name in module.__all__:
        assert getattr(module, name).__doc__, f'{package}.{name}'
