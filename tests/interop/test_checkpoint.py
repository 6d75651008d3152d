"""Reading checkpoints safely."""

import argparse
import json
import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file

from upernet_ext.interop import WeightsError, read_checkpoint

WEIGHTS = {'conv.weight': torch.arange(6.0).view(2, 3)}


@pytest.mark.parametrize(
    'content',
    [
        WEIGHTS,
        {'state_dict': WEIGHTS, 'meta': {'epoch': 3}},
        {'model': WEIGHTS},
        {'teacher': WEIGHTS, 'epoch': 1},
        {'student': {'a': torch.zeros(1)}, 'teacher': WEIGHTS},
        {'model': 'vit_large', 'model_ema': WEIGHTS},
        {**WEIGHTS, 'epoch': 3},
    ],
)
def test_finds_the_weights_wherever_they_are(tmp_path, content) -> None:
    torch.save(content, tmp_path / 'a.pth')
    checkpoint = read_checkpoint(tmp_path / 'a.pth')
    assert list(checkpoint['state_dict']) == ['conv.weight']
    assert torch.equal(
        checkpoint['state_dict']['conv.weight'], WEIGHTS['conv.weight']
    )
    assert checkpoint.get('meta', content.get('meta')) == content.get('meta')


def test_reads_safetensors(tmp_path) -> None:
    save_file(WEIGHTS, tmp_path / 'a.safetensors')
    found = read_checkpoint(str(tmp_path / 'a.safetensors'))['state_dict']
    assert torch.equal(found['conv.weight'], WEIGHTS['conv.weight'])


def test_reads_what_mmengine_stores_beside_the_weights(tmp_path) -> None:
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    extra = dict(
        state_dict=WEIGHTS,
        message_hub=dict(
            log_scalars=dict(loss=history),
            runtime_info=dict(best_score=np.float32(0.5), n=np.int64(3)),
        ),
        meta=dict(array=np.arange(3.0), flag=np.bool_(True)),
    )
    torch.save(extra, tmp_path / 'a.pth')
    found = read_checkpoint(tmp_path / 'a.pth')
    hub = found['message_hub']
    assert hub['log_scalars']['loss'].mean() == pytest.approx(1.5)
    assert hub['runtime_info'] == dict(best_score=0.5, n=3)
    assert found['meta']['array'].tolist() == [0, 1, 2]


class _RunsCode:
    def __init__(self, path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class _UsesGetattr:
    def __reduce__(self):
        return getattr, (HistoryBuffer, '__init__')


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('protocol', [2, 4])
def test_code_in_a_file_is_not_run(tmp_path, protocol: int) -> None:
    trace = tmp_path / 'it-ran'
    torch.save(
        {'state_dict': WEIGHTS, 'x': _RunsCode(trace)},
        tmp_path / 'a.pth',
        pickle_protocol=protocol,
    )
    with pytest.raises(WeightsError, match='refused'):
        read_checkpoint(tmp_path / 'a.pth')
    assert not trace.exists()


def test_getattr_finds_nothing_but_statistics(tmp_path) -> None:
    torch.save({'x': _UsesGetattr()}, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match='refused'):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_damaged_files_are_named(tmp_path, suffix: str) -> None:
    path = tmp_path / f'damaged{suffix}'
    torch.save(WEIGHTS, tmp_path / 'a.pth')
    path.write_bytes((tmp_path / 'a.pth').read_bytes()[:100])
    with pytest.raises(WeightsError, match='damaged'):
        read_checkpoint(path)
    path.write_bytes(pickle.dumps([1], protocol=2))
    with pytest.raises(WeightsError, match='damaged'):
        read_checkpoint(path)


def test_missing_file(tmp_path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r'nowhere\.pth does not exist'
    ):
        read_checkpoint(tmp_path / 'nowhere.pth')


def test_download_that_fails_says_where_to_put_the_file(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    url = 'https://localhost:9/models/vit/file.pth'
    wanted = tmp_path / 'hub' / 'checkpoints' / 'models_vit_file.pth'
    with pytest.raises(WeightsError, match=f'save it as {wanted}'):
        read_checkpoint(url)
    torch.save(WEIGHTS, wanted)
    assert 'conv.weight' in read_checkpoint(url)['state_dict']


def test_a_stored_command_line_is_plain_data(tmp_path) -> None:
    # DeiT, MAE and RETFound store their arguments beside the weights.
    args = argparse.Namespace(lr=0.1, output_dir='out')
    torch.save({'model': WEIGHTS, 'args': args}, tmp_path / 'a.pth')
    found = read_checkpoint(tmp_path / 'a.pth')
    assert found['args'].lr == 0.1
    assert list(found['state_dict']) == ['conv.weight']


def test_a_file_of_other_types_is_refused_with_a_way_out(tmp_path) -> None:
    # As omegaconf's containers in some releases.
    torch.save({'model': WEIGHTS, 'x': _RunsCode('no')}, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match='save its weights alone'):
        read_checkpoint(tmp_path / 'a.pth')


def test_a_file_without_tensors_says_what_it_has(tmp_path) -> None:
    torch.save({'epoch': 3, 'name': 'vit'}, tmp_path / 'a.pth')
    with pytest.raises(WeightsError, match=r"no tensors: .*\['epoch', 'name'"):
        read_checkpoint(tmp_path / 'a.pth')


@pytest.mark.parametrize('suffix', ['safetensors', 'bin'])
def test_reads_a_folder_in_one_file_or_in_shards(tmp_path, suffix) -> None:
    parts = {'a.x': torch.rand(2)}, {'b.y': torch.rand(3)}
    stem = 'model' if suffix == 'safetensors' else 'pytorch_model'
    save = save_file if suffix == 'safetensors' else torch.save
    whole, sharded = tmp_path / 'whole', tmp_path / 'sharded'
    for folder in (whole, sharded):
        folder.mkdir()
        (folder / 'config.json').write_text('{"model_type": "vit"}')
    save(parts[0] | parts[1], whole / f'{stem}.{suffix}')
    index = {}
    for i, part in enumerate(parts, 1):
        file = f'{stem}-0000{i}-of-00002.{suffix}'
        save(part, sharded / file)
        index |= dict.fromkeys(part, file)
    path = sharded / f'{stem}.{suffix}.index.json'
    path.write_text(json.dumps({'weight_map': index}))
    for source in (whole, sharded, path):
        found = read_checkpoint(source)
        assert set(found['state_dict']) == {'a.x', 'b.y'}
        assert torch.equal(found['state_dict']['b.y'], parts[1]['b.y'])
        if source.is_dir():
            assert found['config'] == {'model_type': 'vit'}
    path.write_text(json.dumps({'weight_map': index | {'c.z': file}}))
    with pytest.raises(WeightsError, match=r'1 tensors .* lack: c\.z'):
        read_checkpoint(sharded)
    path.write_text(json.dumps({'weight_map': {'a.x': '../other.bin'}}))
    with pytest.raises(WeightsError, match='not a file beside it'):
        read_checkpoint(sharded)


def test_shards_of_an_address_are_fetched_from_beside_it(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    cache = tmp_path / 'hub' / 'checkpoints'
    cache.mkdir(parents=True)
    index = {'weight_map': {'conv.weight': 'part-1.safetensors'}}
    name = 'me_net_model.safetensors.index.json'
    (cache / name).write_text(json.dumps(index))
    save_file(WEIGHTS, cache / 'me_net_part-1.safetensors')
    found = read_checkpoint(
        'https://localhost:9/me/net/model.safetensors.index.json'
    )
    assert list(found['state_dict']) == ['conv.weight']


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r'one of model\.safetensors'):
        read_checkpoint(tmp_path)
