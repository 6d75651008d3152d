import itertools

import numpy as np
import pytest
import torch
from mmengine.model import BaseModel
from mmseg.structures import SegDataSample
from PIL import Image

from upernet_ext.engine import Runner
from upernet_ext.structures import GridData
from upernet_ext.visualization import (
    draw_comparison,
    draw_volume,
    source_image,
    to_picture,
)

METAINFO = dict(classes=('a', 'b'), palette=[[250, 0, 0], [0, 0, 250]])


class Copy(BaseModel):
    """Predict the negative of the truth."""

    def forward(self, inputs, data_samples=None, mode='tensor'):
        for sample in data_samples:
            labels = 1 - sample.gt_sem_seg.data
            sample.pred_sem_seg = GridData(data=labels)
        return data_samples


class Samples(torch.utils.data.Dataset):
    metainfo = METAINFO

    def __init__(self, size=(4, 6), input_size=None):
        self.size = size
        self.input_size = input_size or size

    def __len__(self):
        return 5

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(index)
        sample = SegDataSample(metainfo=dict(img_path=f'{index}/x.png'))
        labels = torch.randint(2, (1, *self.size), generator=random)
        sample.gt_sem_seg = GridData(data=labels)
        inputs = torch.randint(256, (3, *self.input_size), generator=random)
        return dict(inputs=inputs.byte(), data_samples=sample)


@pytest.fixture
def make_runner(tmp_path):
    numbers = itertools.count()

    def make(dataset, **hook):
        loader = dict(
            dataset=dataset,
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=False),
        )
        evaluator = dict(type='upernet_ext.IoUMetric', prefix='x')
        return Runner(
            model=Copy(),
            work_dir=str(tmp_path / 'run'),
            val_dataloader=loader,
            val_cfg=dict(),
            val_evaluator=evaluator,
            test_dataloader=loader,
            test_cfg=dict(),
            test_evaluator=evaluator,
            custom_hooks=[{'type': 'upernet_ext.SavePictures', **hook}],
            default_hooks=dict(logger=None),
            log_level='ERROR',
            experiment_name=f'{tmp_path.name}_{next(numbers)}',
        )

    return make


def names(folder):
    return sorted(f.name for f in folder.glob('*.png'))


def test_first_samples_of_every_run_are_drawn(make_runner, tmp_path):
    runner = make_runner(Samples(), num_samples=3)
    folder = tmp_path / 'run' / 'pictures'
    expected = ['00000_x.png', '00001_x.png', '00002_x.png']
    for _ in range(2):
        runner.val()
        assert names(folder / 'iter_0') == expected
        (folder / 'iter_0' / '00001_x.png').unlink()
    runner.test()
    assert names(folder / 'test') == expected


def test_all_of_the_test_set_goes_to_a_folder(make_runner, tmp_path):
    show = tmp_path / 'show'
    make_runner(Samples(), num_samples=None, out_dir=str(show)).test()
    assert names(show) == [f'{i:05d}_x.png' for i in range(5)]


def test_label_maps_of_a_test_hold_the_predictions(make_runner, tmp_path):
    hook = dict(type='upernet_ext.SaveLabelMaps', out_dir=str(tmp_path / 'x'))
    make_runner(Samples(), **hook).test()
    assert names(tmp_path / 'x') == [f'{i:05d}_x.png' for i in range(5)]
    truth = Samples()[4]['data_samples'].gt_sem_seg.data[0]
    with Image.open(tmp_path / 'x' / '00004_x.png') as written:
        np.testing.assert_array_equal(np.asarray(written), 1 - truth.numpy())


def test_picture_is_the_comparison(make_runner, tmp_path):
    make_runner(Samples(), opacity=0.7).test()
    item = Samples()[3]
    labels = item['data_samples'].gt_sem_seg.data[0].numpy()
    expected = draw_comparison(
        to_picture(item['inputs']), labels, 1 - labels, opacity=0.7, **METAINFO
    )
    path = tmp_path / 'run' / 'pictures' / 'test' / '00003_x.png'
    with Image.open(path) as picture:
        np.testing.assert_array_equal(np.asarray(picture), expected)


def test_inputs_are_resized_to_the_labels(make_runner, tmp_path):
    make_runner(Samples((4, 6), (8, 12))).test()
    folder = tmp_path / 'run' / 'pictures' / 'test'
    assert len(names(folder)) == 5
    make_runner(Samples(), out_dir=str(tmp_path / 'same')).test()
    with (
        Image.open(folder / '00000_x.png') as resized,
        Image.open(tmp_path / 'same' / '00000_x.png') as same,
    ):
        assert resized.size == same.size


class Cases(Samples):
    """Volumes that were cropped and turned before the model saw them."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        sample = item['data_samples']
        sample.set_metainfo(
            dict(
                case=f'case_{index}',
                ori_shape=(5, 6, 7),
                ori_spacing=(3.0, 1.0, 1.0),
                axes=(2, 0, 1),
                crop_box=((1, 7), (0, 4), (2, 6)),
            )
        )
        return item


def test_of_a_volume_three_planes_are_drawn(make_runner, tmp_path):
    dataset = Cases((5, 6, 7), (12, 4, 9))
    make_runner(dataset, num_samples=1).test()
    folder = tmp_path / 'run' / 'pictures' / 'test'
    assert names(folder) == ['00000_case_0.png']
    item = dataset[0]
    sample = item['data_samples']
    labels = sample.gt_sem_seg.data
    image = source_image(item['inputs'], sample.metainfo, (5, 6, 7))
    expected = draw_volume(
        image, labels, 1 - labels, spacing=(3.0, 1.0, 1.0), **METAINFO
    )
    with Image.open(folder / '00000_case_0.png') as picture:
        np.testing.assert_array_equal(np.asarray(picture), expected)
