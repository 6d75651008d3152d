"""Train, test and predict volumes with the tools, as a user does."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from upernet_ext.apis import init_model
from upernet_ext.interop import read_checkpoint
from upernet_ext.models import ResNet

CONFIG = 'upernet_resnet18_nnunet'
# An experiment on images or on volumes: only the dataset's base differs.
EXPERIMENT = """
_base_ = [
    '{configs}/_base_/backbones/resnet18-nd.py',
    '{configs}/_base_/heads/uper.py',
    '{configs}/_base_/datasets/{dataset}.py',
    '{configs}/_base_/schedules/adamw_400.py',
    '{configs}/_base_/runtime.py',
]
model = dict(
    type='upernet_ext.EncoderDecoder',
    data_preprocessor=dict(
        type='upernet_ext.SegDataPreProcessor',
        **_base_.normalization,
        size=_base_.crop_size,
    ),
    backbone=dict(_base_.backbone, base_channels=8, pretrained='{weights}'),
    neck=_base_.neck,
    decode_head=dict(_base_.decode_head, channels=8),
    num_classes=_base_.num_classes,
    in_channels=_base_.in_channels,
    spatial_dims=_base_.spatial_dims,
    test_cfg=dict(mode='whole'),
)
# Too small to move a weight.
optim_wrapper = dict(optimizer=dict(lr=1e-12))
"""


@pytest.mark.slow
def test_from_the_raw_folder_to_scores_files_and_pictures(
    blobs, run, tmp_path
):
    options = ['--nnunet', 7, '3d_fullres', 0, '--work-dir', tmp_path / 'run']
    options += ['--device', 'cpu', '--cfg-options', 'num_workers=0']
    run(
        'train.py', CONFIG, *options, 'max_iters=4', 'train_cfg.val_interval=4'
    )
    checkpoint = tmp_path / 'run' / 'iter_4.pth'
    places = ['--out', tmp_path / 'out', '--show-dir', tmp_path / 'show']
    run('test.py', CONFIG, checkpoint, *places, *options)

    metrics = json.loads((tmp_path / 'out' / 'metrics.json').read_text())
    labels = tmp_path / 'out' / 'labels'
    summary = json.loads((labels / 'summary.json').read_text())
    assert set(metrics['per_class']) == {'left', 'right'}
    assert metrics['per_class']['left']['Dice'] == pytest.approx(
        summary['mean']['1']['Dice']
    )
    assert metrics['metrics']['HD95'] == pytest.approx(
        summary['foreground_mean']['HD95']
    )
    dice = []
    for case in summary['metric_per_case']:
        truth = nibabel.load(case['reference_file'])
        found = nibabel.load(case['prediction_file'])
        np.testing.assert_array_equal(found.affine, truth.affine)
        masks = [np.asarray(f.dataobj) == 2 for f in (found, truth)]
        both = np.sum(masks[0] & masks[1])
        dice.append(2 * both / sum(np.sum(m) for m in masks))
        assert case['metrics']['2']['Dice'] == pytest.approx(dice[-1])
    assert summary['mean']['2']['Dice'] == pytest.approx(np.mean(dice))
    names = [
        Path(c['prediction_file']).name for c in summary['metric_per_case']
    ]
    assert [f.name[6:-4] for f in sorted((tmp_path / 'show').iterdir())] == [
        name.removesuffix('.nii.gz') for name in names
    ]

    # What the test wrote is what is predicted of the file alone.
    name = names[0]
    image = blobs / 'imagesTr' / name.replace('.nii.gz', '_0000.nii.gz')
    run('predict.py', checkpoint, image, '--out', tmp_path / 'new')
    new = nibabel.load(tmp_path / 'new' / 'labels' / name)
    tested = nibabel.load(labels / name)
    np.testing.assert_array_equal(new.dataobj, tested.dataobj)
    with Image.open(
        tmp_path / 'new' / 'overlays' / name.replace('.nii.gz', '.png')
    ) as picture:
        assert picture.mode == 'RGB'

    # Two equal folds are one.
    run(
        *('predict.py', checkpoint, tmp_path / 'run' / 'iter_4.pth', image),
        *('--out', tmp_path / 'folds'),
    )
    mean = nibabel.load(tmp_path / 'folds' / 'labels' / name)
    np.testing.assert_array_equal(mean.dataobj, tested.dataobj)


@pytest.mark.slow
def test_two_processes_prepare_train_and_measure_volumes(
    blobs, launch, tmp_path
):
    options = ['--nnunet', 7, '3d_fullres', 0, '--device', 'cpu']
    options += ['--cfg-options', 'num_workers=0', 'max_iters=2']
    options += ['val_interval=2']
    launch('dist_train.sh', CONFIG, 2, '--work-dir', 'two', *options)
    checkpoint = tmp_path / 'two' / 'iter_2.pth'
    reports, summaries = [], []
    for tool, count in (('dist_test.sh', [2]), ('test.py', [])):
        out = tmp_path / tool
        launch(tool, CONFIG, checkpoint, *count, '--out', out, *options)
        reports.append(json.loads((out / 'metrics.json').read_text()))
        text = (out / 'labels' / 'summary.json').read_text()
        summaries.append(json.loads(text.replace(str(out), '')))
    assert [report['processes'] for report in reports] == [2, 1]
    assert len(summaries[0]['metric_per_case']) == 2
    assert summaries[0] == summaries[1]
    assert reports[0]['per_class'] == reports[1]['per_class']


@pytest.mark.slow
def test_another_dataset_makes_volumes_of_an_experiment(
    blobs, image_folder, run, configs, tmp_path
):
    weights = tmp_path / 'resnet18.pth'
    plane = ResNet('resnet18', base_channels=8).state_dict()
    for value in plane.values():
        if value.is_floating_point():
            value.uniform_(0.5, 1.5)
    torch.save(plane, weights)
    cases = dict(
        folder=[f'data_root={image_folder}', 'classes=[dark,middle,bright]'],
        nnunet=['nnunet.dataset=7'],
    )
    trained = {}
    for dataset, options in cases.items():
        config = tmp_path / f'on_{dataset}.py'
        config.write_text(
            EXPERIMENT.format(
                configs=configs, dataset=dataset, weights=weights
            )
        )
        run(
            *('train.py', config, '--work-dir', tmp_path / dataset),
            *('--device', 'cpu', '--cfg-options', 'max_iters=2'),
            *('num_workers=0', 'train_dataloader.batch_size=2'),
            *('crop_size=(32,32)' for _ in range(dataset == 'folder')),
            *options,
        )
        content = read_checkpoint(tmp_path / dataset / 'iter_2.pth')
        trained[dataset] = content
    images, volumes = trained['folder'], trained['nnunet']
    two, three = images['state_dict'], volumes['state_dict']
    assert set(two) == set(three)
    kernel = three['backbone.layer1.0.conv1.weight']
    centre = plane['layer1.0.conv1.weight']
    assert kernel.shape == (8, 8, 3, 3, 3)
    torch.testing.assert_close(kernel[:, :, 1], centre)
    assert kernel[:, :, [0, 2]].abs().max() < 1e-6
    # Two channels of three, scaled to the same sum.
    stem = three['backbone.conv1.weight'][:, :, 3]
    torch.testing.assert_close(stem, plane['conv1.weight'][:, :2] * 1.5)
    receipt = volumes['meta']['receipt']
    assert len(receipt['matched']) == len(plane)
    assert init_model(tmp_path / 'nnunet' / 'iter_2.pth').spatial_dims == 3


@pytest.mark.slow
@pytest.mark.parametrize('configuration', ['2d', '3d_fullres'])
def test_a_yaml_file_trains_a_vit(configuration, blobs, run, tmp_path):
    """With four blocks of a base ViT."""
    file = tmp_path / 'upernet.yaml'
    content = dict(
        model=dict(
            backbone='dinov3',
            backbone_size='base',
            decoder=dict(hidden_size=8, pool_scales=[1, 2]),
        ),
        lora=dict(enabled=True, r=2, target_modules=['qkv']),
        train=dict(
            num_epochs=1,
            num_iterations_per_epoch=2,
            num_val_iterations_per_epoch=1,
        ),
    )
    file.write_text(yaml.safe_dump(content))
    folder = tmp_path / 'run'
    run(
        *('nnunet_train_vit.py', 7, configuration, 0, '--config', file),
        *('--work-dir', folder, '--device', 'cpu', '--cfg-options'),
        *(
            'num_workers=0',
            'batch_size=2',
            'model.backbone.out_indices=[0,1,2,3]',
        ),
        *('model.backbone.pretrained=None', 'custom_hooks=[]'),
    )
    content = read_checkpoint(folder / 'iter_2.pth')
    assert any('lora_A' in name for name in content['state_dict'])
    slicewise = any('z_convs' in name for name in content['state_dict'])
    assert slicewise == (configuration == '3d_fullres')
    model = init_model(folder / 'iter_2.pth', device='cpu')
    assert model.spatial_dims == (2 if configuration == '2d' else 3)
    log = next(folder.rglob('scalars.json')).read_text().splitlines()
    assert 'Dice' in json.loads(log[-1])
