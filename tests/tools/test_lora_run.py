"""Train a backbone, adapt it, test, predict, resume and merge: one story."""

import json

import pytest
import torch

from upernet_ext.apis import init_model, predict
from upernet_ext.conversion import convert
from upernet_ext.interop import WeightsError, read_checkpoint

pytestmark = pytest.mark.slow
SEED = ('--seed', 5)
LORA = """
_base_ = 'tiny.py'
model = dict(
    backbone=dict(
        pretrained='work_dirs/tiny/iter_5.pth', gradient_checkpointing=True),
    tuning=dict(
        type='lora', targets=['qkv'], rank=2, alpha=4.0, dropout=0.0))
custom_hooks = [dict(type='upernet_ext.SaveTrainable')]
"""


@pytest.fixture(scope='module')
def adapted(project):
    """The project, after a run of the base and one of its adapters."""
    config = project.folder / 'lora.py'
    config.write_text(LORA)
    project.run('train.py', project.config, *SEED)
    project.run('train.py', config, *SEED)
    return project


def last(folder, name='iter_5.pth'):
    return read_checkpoint(folder / name)


def test_receipt_adapter_file_and_merged_model_agree(adapted, monkeypatch):
    monkeypatch.chdir(adapted.folder)
    base = last(adapted.folder / 'work_dirs/tiny')['state_dict']
    path = adapted.folder / 'work_dirs/lora/iter_5.pth'
    content = read_checkpoint(path)
    names = {n.removeprefix('backbone.') for n in base if 'backbone.' in n}
    receipt = content['meta']['receipt']
    assert receipt['source'] == 'work_dirs/tiny/iter_5.pth'
    assert set(receipt['matched']) == names
    left_out = content['meta']['base']['names']
    assert len(left_out) == len(names)
    saved = set(content['state_dict'])
    assert not saved & set(left_out)
    assert all('.lora_' in n for n in saved if n.startswith('backbone.'))

    # What the adapters file needs of the base is what the base had.
    model = init_model(path, device='cpu')
    own = model.state_dict()
    for name in left_out:
        there = name.replace('.base_layer', '')
        assert torch.equal(own[name], base[there])
    for name in saved:
        assert torch.equal(own[name], content['state_dict'][name])

    image = adapted.folder / 'data/img_dir/val/0.png'
    model.test_cfg.keep_logits = True
    before = predict(model, image)
    model.merge_lora()
    after = predict(model, image)
    torch.testing.assert_close(
        after.seg_logits.data, before.seg_logits.data, rtol=1e-5, atol=1e-6
    )
    assert torch.equal(after.pred_sem_seg.data, before.pred_sem_seg.data)

    # The merged model is a plain one, which a folder keeps.
    model.save_pretrained('merged')
    plain = type(model).from_pretrained('merged')
    assert list(plain.state_dict()) == list(base)
    moved = plain.state_dict()['backbone.blocks.3.attn.qkv.weight']
    assert not torch.equal(moved, base['backbone.blocks.3.attn.qkv.weight'])


@pytest.mark.parametrize('to', ['upernet_ext', 'timm'])
def test_an_adapter_file_converts_with_its_base(to, adapted, monkeypatch):
    monkeypatch.chdir(adapted.folder)
    path = adapted.folder / 'work_dirs/lora/iter_5.pth'
    target = f'{to}.safetensors' if to == 'timm' else to
    convert(path, target, to=to)
    model = init_model(path, device='cpu')
    if to == 'timm':
        model.merge_lora()
        model = model.backbone
    written = read_checkpoint(target)['state_dict']
    for name, value in model.state_dict().items():
        assert torch.equal(written[name], value), name


def test_the_numbers_of_the_file_are_those_of_the_run(adapted):
    adapted.run(
        *('test.py', 'lora.py', 'work_dirs/lora/iter_5.pth'),
        *('--out', 'out'),
    )
    report = json.loads((adapted.folder / 'out/metrics.json').read_text())
    (log,) = (adapted.folder / 'work_dirs/lora').rglob('scalars.json')
    validation = json.loads(log.read_text().splitlines()[-1])
    for name, value in report['metrics'].items():
        assert validation[name] == pytest.approx(value, rel=1e-6)


def test_another_base_stops_the_tool(adapted):
    done = adapted.run(
        *('test.py', 'lora.py', 'work_dirs/lora/iter_5.pth'),
        '--cfg-options',
        'model.backbone.pretrained=work_dirs/tiny/iter_1.pth',
        code=1,
    )
    assert 'holds other weights' in done.stdout + done.stderr
    path = adapted.folder / 'work_dirs/lora/iter_5.pth'
    with pytest.raises(WeightsError, match='is not there'):
        init_model(
            path,
            cfg_options={'model.backbone.pretrained': 'nowhere.pth'},
        )


def test_two_processes_and_a_resumed_run_train_the_same(adapted):
    one, two = (adapted.folder / 'work_dirs' / n for n in ('one', 'two'))
    adapted.run(
        *('train.py', 'lora.py', *SEED, '--work-dir', one),
        *('--cfg-options', 'train_dataloader.batch_size=4'),
    )
    start = ('dist_train.sh', 'lora.py', 2, *SEED, '--device', 'cpu')
    adapted.run(*start, '--work-dir', two)
    expected = last(one)['state_dict']
    torch.testing.assert_close(
        last(two)['state_dict'], expected, rtol=1e-5, atol=1e-6
    )
    first = last(one, 'iter_1.pth')['state_dict']
    adapters = [name for name in expected if 'lora_B' in name]
    assert len(adapters) == 4
    for name in adapters:
        assert (expected[name] - first[name]).abs().max() > 1e-5

    for iteration in (4, 5):
        (two / f'iter_{iteration}.pth').unlink()
    (two / 'last_checkpoint').write_text(str(two / 'iter_3.pth'))
    adapted.run(*start, '--work-dir', two, '--resume')
    torch.testing.assert_close(
        last(two)['state_dict'], expected, rtol=1e-5, atol=1e-6
    )
    assert last(two)['meta']['base'] == last(one)['meta']['base']
