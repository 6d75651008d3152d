"""The tools, as a user runs them."""

import importlib.util
import json
import time

import numpy as np
import pytest
import torch
from PIL import Image

from upernet_ext.interop import read_checkpoint


@pytest.fixture
def main(project, monkeypatch):
    """Call the ``main`` of a tool in this process."""
    monkeypatch.chdir(project.folder)

    def main(tool, *arguments):
        # mmengine tells the runs of one process apart by the second.
        time.sleep(1.01)
        path = project.tools / tool
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.main([str(argument) for argument in arguments])

    return main


@pytest.fixture(scope='module')
def trained(project):
    """The output of a training run, and its folder."""
    done = project.run('train.py', project.config, '--seed', 3)
    return done.stdout, project.folder / 'work_dirs' / 'tiny'


@pytest.mark.slow
def test_training_tells_what_it_does(trained):
    text, run = trained
    assert 'Could not import OneDL' not in text
    assert 'RANDOM weights' in text
    lines = [s for s in text.splitlines() if 'Iter(train)' in s]
    assert len(lines) == 5
    for word in (' eta: ', ' loss: ', ' memory: '):
        assert word in lines[0]
    pictures = run / 'pictures' / 'iter_5'
    assert len(list(pictures.glob('*.png'))) == 3
    assert (run / 'tiny.py').is_file()


@pytest.mark.slow
def test_seed_repeats_a_run(trained, main, tmp_path):
    _, run = trained
    main('train.py', 'tiny.py', '--seed', 3, '--work-dir', tmp_path)
    first = read_checkpoint(run / 'iter_5.pth')['state_dict']
    again = read_checkpoint(tmp_path / 'iter_5.pth')['state_dict']
    torch.testing.assert_close(again, first, rtol=0, atol=0)


@pytest.mark.slow
def test_test_and_predict_write_the_same_labels(project, trained):
    _, run = trained
    checkpoint = run / 'iter_5.pth'
    done = project.run(
        *('test.py', project.config, checkpoint),
        *('--out', 'out', '--show-dir', 'show'),
    )
    assert '| middle |' in done.stdout
    report = json.loads((project.folder / 'out/metrics.json').read_text())
    per_class = [row['IoU'] for row in report['per_class'].values()]
    assert report['metrics']['mIoU'] == pytest.approx(np.mean(per_class))
    assert report['checkpoint'] == str(checkpoint)
    assert report['images'] == 3
    assert report['images_per_second'] > 0
    assert report['peak_memory_mib'] > 100
    assert len(list((project.folder / 'show').glob('*.png'))) == 3

    images = project.folder / 'data' / 'img_dir'
    project.run('predict.py', checkpoint, images, '--out', 'predicted')
    predicted = project.folder / 'predicted'
    assert (predicted / 'overlays' / 'train' / '7.png').is_file()
    with (
        Image.open(predicted / 'labels' / 'val' / '1.png') as ours,
        Image.open(
            project.folder / 'out' / 'labels' / '00001_1.png'
        ) as theirs,
    ):
        np.testing.assert_array_equal(np.array(ours), np.array(theirs))


@pytest.mark.slow
def test_augmentation_is_that_of_the_config(trained, main, tmp_path):
    _, run = trained
    test = ('test.py', 'tiny.py', run / 'iter_5.pth')
    tta = 'model.test_cfg.tta'
    same = (f'{tta}.scales=[1.0,1.5]', f'{tta}.flip_axes=[-1]')
    metrics = []
    for arguments in ((), ('--tta',), ('--cfg-options', *same)):
        main(*test, '--out', tmp_path, *arguments)
        report = json.loads((tmp_path / 'metrics.json').read_text())
        assert report['tta'] == ('--tta' in arguments)
        metrics.append(report['metrics'])
    plain, augmented, by_hand = metrics
    assert augmented == by_hand
    assert augmented != plain


def test_amp_trains_in_bfloat16(main, tmp_path):
    main(
        *('train.py', 'tiny.py', '--amp', '--work-dir', tmp_path),
        *('--device', 'cpu', '--cfg-options', 'param_scheduler=None'),
        *('train_cfg.max_iters=2', 'train_cfg.val_interval=2'),
    )
    saved = read_checkpoint(tmp_path / 'iter_2.pth')
    assert 'loss_scaler' in saved['optimizer']
    assert {v.dtype for v in saved['state_dict'].values()} == {torch.float32}


def test_mistakes_are_one_line(main, tmp_path):
    def message(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main(*arguments)
        assert '\n' not in exit_.value.code
        return exit_.value.code

    train = ('train.py', 'tiny.py', '--work-dir', tmp_path)
    line = message(*train, '--resume', 'none.pth')
    assert line.startswith('error: checkpoint none.pth does not exist')
    line = message(*train, '--amp', '--cfg-options', 'optim_wrapper.type=Apex')
    assert "optim_wrapper.type='Apex' has no mixed precision" in line
    line = message(*train, '--cfg-options', 'model.num_classes=9')
    assert 'model.num_classes=9' in line
    torch.save(
        dict(state_dict=dict(renamed=torch.ones(1))), tmp_path / 'x.pth'
    )
    line = message('test.py', 'tiny.py', tmp_path / 'x.pth')
    assert 'renamed' in line
    line = message('predict.py', tmp_path / 'x.pth', '.', '--out', tmp_path)
    assert 'x.pth has no config in it' in line


@pytest.mark.slow
def test_missing_ade20k_is_said_after_the_model_is_built(main, project):
    with pytest.raises(SystemExit) as exit_:
        main('train.py', 'upernet_vit-s_ade20k', '--device', 'cpu')
    assert exit_.value.code.startswith(
        'error: data/ade/ADEChallengeData2016 does not exist'
    )
    (log,) = project.folder.glob('work_dirs/upernet_vit-s_ade20k/*/*.log')
    # the last word of a built run
    assert 'Hooks will be executed' in log.read_text()
