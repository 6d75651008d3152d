"""A small experiment on disk, and files that inherit from it."""

import pytest

from upernet_ext.config import ConfigError, load_config

# A small experiment of the same build as those in configs/.
FILES = {
    'backbone.py': """
backbone = dict(type='mmseg.ResNetV1c', depth=50)
neck = None
normalization = dict(mean=[1, 2, 3], std=[4, 5, 6])
""",
    'head.py': """
decode_head = dict(type='upernet_ext.UPerHead', channels=8)
auxiliary_head = None
""",
    'dataset.py': """
data_root = 'data/here'
classes = ['sky', 'sea', 'land']
num_classes = len(classes)
in_channels = 3
spatial_dims = 2
crop_size = (64, 64)
train_pipeline = [dict(type='RandomCrop', crop_size=crop_size)]
train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        type='upernet_ext.FolderDataset',
        data_root=data_root,
        classes=classes,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type='upernet_ext.FolderDataset', data_root=data_root, classes=classes
    )
)
""",
    'schedule.py': """
max_iters = 1000
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.2))
param_scheduler = [
    dict(type='LinearLR', by_epoch=False, begin=0, end=max_iters // 10),
    dict(type='PolyLR', by_epoch=False, begin=max_iters // 10, end=max_iters),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters)
""",
    'experiment.py': """
'''A small experiment.'''
_base_ = ['backbone.py', 'head.py', 'dataset.py', 'schedule.py']
default_scope = 'mmseg'
model = dict(
    type='upernet_ext.EncoderDecoder',
    data_preprocessor=dict(**_base_.normalization, size=_base_.crop_size),
    backbone=dict(_base_.backbone, drop_path_rate=0.3),
    neck=_base_.neck,
    decode_head=_base_.decode_head,
    auxiliary_head=_base_.auxiliary_head,
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
)
""",
}


@pytest.fixture
def write(tmp_path):
    """Write config files beside the small experiment; return the first."""

    def write(**texts):
        for name, text in texts.items():
            (tmp_path / f'{name}.py').write_text(text)
        return tmp_path / f'{next(iter(texts))}.py'

    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return write


@pytest.fixture
def experiment(write, tmp_path):
    return tmp_path / 'experiment.py'


def child(text):
    return f"_base_ = 'experiment.py'\n{text}\n"


def refused(path, message, **overrides):
    overrides = {k.replace('__', '.'): v for k, v in overrides.items()}
    with pytest.raises(ConfigError, match=message):
        load_config(path, overrides=overrides)
