"""The schedule ends with the training; the classes are the data's."""

import pytest

from upernet_ext.config import load_config

from .conftest import refused

# --- the schedule -----------------------------------------------------------


def schedule(*schedulers, loop='max_iters=100'):
    listed = ', '.join(f'dict({s})' for s in schedulers)
    return f'train_cfg = dict({loop})\nparam_scheduler = [{listed}]'


POLY = "type='PolyLR', by_epoch=False, "
WARM_UP = "type='LinearLR', by_epoch=False, "


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (schedule(POLY + 'end=90'), r'0 \(PolyLR\) ends at 90, before.*=100'),
        (schedule(POLY + 'end=110'), r'0 \(PolyLR\) ends at 110, after'),
        (schedule(POLY), r'has no end.*end=100'),
        (schedule(WARM_UP + 'end=200'), r'\(LinearLR\) ends at 200, after'),
        (
            schedule(WARM_UP + 'end=10', POLY + 'begin=10, end=50'),
            r'param_scheduler\.1 \(PolyLR\) ends at 50, before',
        ),
        (schedule("type='PolyLR', end=100"), 'counts epochs.*by_epoch=False'),
        (schedule(POLY + 'begin=100, end=100'), 'is empty: it begins at 100'),
        (
            schedule("type='CosineAnnealingLR', T_max=8", loop='max_epochs=9'),
            r'ends at 8, before the training \(train_cfg\.max_epochs=9\)',
        ),
    ],
)
def test_a_schedule_that_misses_the_end_is_refused(write, text, message):
    refused(write(new=text), message)


@pytest.mark.parametrize(
    'text',
    [
        schedule(),
        schedule(POLY + 'end=100'),
        schedule(POLY + 'end=100', loop=''),  # nothing to compare with
        schedule(WARM_UP + 'end=10', POLY + 'begin=10, end=100'),
        schedule(WARM_UP + 'end=10'),  # then constant
        schedule("type='MultiStepLR', by_epoch=False, milestones=[50]"),
        schedule("type='CosineAnnealingLR', T_max=9", loop='max_epochs=9'),
        schedule(POLY + 'end=100', loop='max_epochs=9'),  # iterations unknown
    ],
)
def test_a_schedule_that_meets_the_end_passes(write, text):
    load_config(write(new=text))


def test_moving_one_of_two_numbers_is_refused_and_says_how(experiment):
    refused(
        experiment,
        r'ends at 1000, after the training.*--cfg-options max_iters=N',
        train_cfg__max_iters=100,
    )
    load_config(
        experiment,
        overrides={'train_cfg.max_iters': 900, 'param_scheduler.1.end': 900},
    )


# --- the classes ------------------------------------------------------------


def data(num_classes, dataset, loader='train_dataloader'):
    return (
        f"default_scope = 'mmseg'\nmodel = dict(num_classes={num_classes})\n"
        f'{loader} = dict(dataset=dict({dataset}))'
    )


CONCAT = "type='ConcatDataset', datasets=[dict(type='CityscapesDataset')]"
NAMES = "type='upernet_ext.FolderDataset', classes=['a', 'b']"


@pytest.mark.parametrize('loader', ['train', 'val', 'test'])
def test_classes_are_compared_in_every_dataset(write, loader):
    text = data(151, "type='ADE20KDataset'", f'{loader}_dataloader')
    refused(
        write(new=text),
        rf'num_classes=151, but {loader}_dataloader\.dataset has 150 classes: '
        'wall, building',
    )
    load_config(write(new=text.replace('151', '150')))


@pytest.mark.parametrize(
    ('num_classes', 'dataset', 'message'),
    [
        (19, CONCAT, None),
        (20, CONCAT, r'dataset\.datasets\.0 has 19'),
        (
            20,
            "type='RepeatDataset', dataset=dict(type='CityscapesDataset')",
            r'dataset\.dataset has 19',
        ),
        (4, "type='upernet_ext.MNI152Dataset'", None),
        (3, "type='upernet_ext.MNI152Dataset'", 'has 4 classes: background'),
        (2, NAMES, None),
        (1, NAMES, 'one foreground class, and has one name'),
        (1, "type='upernet_ext.FolderDataset', classes=['a']", None),
        (
            150,
            "type='ADE20KDataset', metainfo=dict(classes=['a', 'b'])",
            'has 2 classes: a, b;',
        ),
        (5, "type='not_registered_anywhere'", None),
    ],
)
def test_classes_come_from_the_config_or_the_class(
    write, num_classes, dataset, message
):
    path = write(new=data(num_classes, dataset))
    if message:
        refused(path, message)
    else:
        load_config(path)


def test_classes_are_compared_with_a_borrowed_segmentor_s_head(write):
    text = data(2, NAMES)
    head = 'dict(decode_head=dict(num_classes=3))'
    refused(write(new=text.replace('dict(num_classes=2)', head)), 'has 2 cla')
    load_config(write(new=text.replace('num_classes=2', '')))
