"""A tiny run: mmengine's loop over numbers, without a segmentor."""

import itertools

import pytest
import torch
from mmengine.model import BaseModel
from torch import nn

from upernet_ext.engine import Runner


class Line(BaseModel):
    """Fit ``y = 2 x``."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        self.initialised = False

    def init_weights(self):
        self.initialised = True
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.zeros_(self.layer.bias)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        error = self.layer(inputs) - 2 * inputs
        return dict(loss=error.square().mean())


class Numbers(torch.utils.data.Dataset):
    metainfo = dict(classes=['a', 'b'])

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([index / 6]))


@pytest.fixture
def make_runner(tmp_path):
    numbers = itertools.count()

    def make(max_iters=2, **kwargs):
        loader = dict(
            dataset=Numbers(),
            batch_size=2,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        )
        arguments = dict(
            model=Line(),
            work_dir=str(tmp_path / 'run'),
            train_dataloader=loader,
            train_cfg=dict(by_epoch=False, max_iters=max_iters),
            optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.1)),
            param_scheduler=[dict(type='PolyLR', end=4, by_epoch=False)],
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', by_epoch=False)
            ),
            randomness=dict(seed=1),
            log_level='ERROR',
            # mmengine tells runs of one second apart by their name.
            experiment_name=f'{tmp_path.name}_{next(numbers)}',
        )
        return Runner(**{**arguments, **kwargs})

    return make
