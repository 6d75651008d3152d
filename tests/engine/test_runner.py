import pickle
import socket
from pathlib import Path

import pytest
import torch
from mmengine.model import MMDistributedDataParallel
from torch import distributed, nn

from upernet_ext.config import ConfigError
from upernet_ext.engine import DataNotFoundError
from upernet_ext.interop import Receipt, WeightsError, read_checkpoint


@pytest.fixture
def checkpoint(make_runner, tmp_path):
    make_runner().train()
    return tmp_path / 'run' / 'iter_2.pth'


def test_resumed_run_equals_uninterrupted_run(make_runner, tmp_path):
    whole = make_runner(4, work_dir=str(tmp_path / 'whole'))
    whole.train()
    make_runner(2).train()
    resumed = make_runner(4, resume=True)
    resumed.train()
    assert resumed.iter == 4
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    rates = [r.optim_wrapper.get_lr()['lr'] for r in (resumed, whole)]
    assert rates[0] == rates[1]


def test_loading_a_whole_model_initialises_nothing(make_runner, checkpoint):
    runner = make_runner(0, load_from=str(checkpoint))
    runner.train()
    assert not runner.model.initialised
    saved = read_checkpoint(checkpoint)['state_dict']
    torch.testing.assert_close(runner.model.state_dict(), dict(saved))


def test_auto_resume_without_checkpoint_initialises(make_runner):
    runner = make_runner(resume=True)
    runner.train()
    assert runner.model.initialised
    assert runner.iter == 2


def test_renamed_key_is_refused_and_nothing_loaded(make_runner, checkpoint):
    content = torch.load(checkpoint, weights_only=False)
    content['state_dict']['layer.wait'] = content['state_dict'].pop(
        'layer.weight'
    )
    torch.save(content, checkpoint)
    runner = make_runner(load_from=str(checkpoint))
    before = {k: v.clone() for k, v in runner.model.state_dict().items()}
    with pytest.raises(WeightsError, match=r'layer\.weight.*layer\.wait'):
        runner.load_or_resume()
    torch.testing.assert_close(runner.model.state_dict(), before)
    with pytest.raises(ValueError, match='completely'):
        runner.load_checkpoint(str(checkpoint), strict=False)


class _Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_code_in_a_checkpoint_is_not_executed(
    make_runner, checkpoint, tmp_path
):
    touched = tmp_path / 'touched'
    content = torch.load(checkpoint, weights_only=False)
    # mmengine's Runner would run the old form of the config.
    content['meta']['config'] = f'open({str(touched)!r}, "w")'
    torch.save(content, checkpoint)
    make_runner(4, resume=True, load_from=str(checkpoint)).train()
    assert not touched.exists()

    content['meta']['extra'] = _Malicious(touched)
    torch.save(content, checkpoint, pickle_module=pickle)
    with pytest.raises(WeightsError, match='could run code'):
        make_runner(load_from=str(checkpoint)).load_or_resume()
    assert not touched.exists()


def test_receipt_travels_into_the_next_checkpoint(
    make_runner, checkpoint, tmp_path
):
    assert 'receipt' not in read_checkpoint(checkpoint)['meta']
    work_dir = tmp_path / 'next'
    make_runner(load_from=str(checkpoint), work_dir=str(work_dir)).train()
    receipt = read_checkpoint(work_dir / 'iter_2.pth')['meta']['receipt']
    assert receipt['source'] == str(checkpoint)
    assert set(receipt['matched']) == {'layer.weight', 'layer.bias'}


def test_names_of_a_parallel_wrapper_are_understood(make_runner, checkpoint):
    content = torch.load(checkpoint, weights_only=False)
    saved = content['state_dict']
    content['state_dict'] = {f'module.{k}': v for k, v in saved.items()}
    torch.save(content, checkpoint)
    runner = make_runner(load_from=str(checkpoint))
    runner.load_or_resume()
    torch.testing.assert_close(runner.model.state_dict(), dict(saved))


def test_resume_needs_more_than_weights(make_runner, checkpoint):
    content = torch.load(checkpoint, weights_only=False)
    del content['optimizer']
    torch.save(content, checkpoint)
    runner = make_runner(4, resume=True, load_from=str(checkpoint))
    with pytest.raises(WeightsError, match='no optimizer'):
        runner.train()
    make_runner(load_from=str(checkpoint)).train()


def test_missing_data_is_named_after_the_model_is_built(make_runner, tmp_path):
    loader = dict(
        dataset=dict(
            type='ADE20KDataset',
            data_root=str(tmp_path),
            data_prefix=dict(img_path='images/training'),
        ),
        batch_size=1,
        sampler=dict(type='InfiniteSampler'),
    )
    runner = make_runner(train_dataloader=loader)
    assert next(runner.model.parameters()).shape == (1, 1)
    with pytest.raises(DataNotFoundError, match='images/training'):
        runner.train()


def test_unknown_device_is_refused(make_runner):
    name = 'xpu' if torch.cuda.is_available() else 'cuda'
    with pytest.raises(ConfigError, match=f"device='{name}'"):
        make_runner(cfg=dict(device=name))


def test_cpu_is_chosen_and_several_processes_need_their_launcher(make_runner):
    runner = make_runner(cfg=dict(device='cpu'))
    assert runner.device == 'cpu'
    assert {p.device.type for p in runner.model.parameters()} == {'cpu'}
    with pytest.raises(ConfigError, match="launcher='mpi'"):
        make_runner(cfg=dict(device='cpu'), launcher='mpi')


def test_deterministic_run_repeats_and_does_not_refuse(make_runner, tmp_path):
    try:
        weights = []
        for name in ('a', 'b'):
            runner = make_runner(
                work_dir=str(tmp_path / name),
                randomness=dict(seed=3, deterministic=True),
            )
            runner.train()
            weights.append(runner.model.state_dict())
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        torch.testing.assert_close(*weights, rtol=0, atol=0)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.fixture
def process_group(monkeypatch):
    """Variables of a launcher that starts one process."""
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        monkeypatch.setenv('MASTER_PORT', str(free.getsockname()[1]))
    for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):
        monkeypatch.setenv(name, '1')
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'):
        monkeypatch.setenv(name, '')  # so that it is unset afterwards
        monkeypatch.delenv(name)
    yield monkeypatch.setenv
    if distributed.is_initialized():
        distributed.destroy_process_group()


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm'])
def test_cpu_processes_are_joined_over_gloo(
    make_runner, process_group, launcher
):
    variables = {
        'pytorch': dict(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1'),
        'slurm': dict(SLURM_PROCID='0', SLURM_LOCALID='0', SLURM_NTASKS='1'),
    }
    for name, value in variables[launcher].items():
        process_group(name, value)
    runner = make_runner(
        launcher=launcher,
        cfg=dict(device='cpu', find_unused_parameters=True),
        env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=60)),
    )
    assert distributed.get_backend() == 'gloo'
    assert isinstance(runner.model, MMDistributedDataParallel)
    assert runner.model.device_ids is None
    assert runner.model.find_unused_parameters
    runner.train()
    assert runner.iter == 2


def test_synchronised_norm_becomes_plain_on_the_cpu(make_runner):
    model = nn.Sequential(nn.SyncBatchNorm(2))
    runner = make_runner(model=model, cfg=dict(device='cpu'))
    assert not isinstance(runner.model[0], nn.SyncBatchNorm)
    assert runner.model(torch.ones(2, 2, 3)).abs().max() < 1


def test_receipt_of_a_pretrained_backbone_is_kept_by_resuming(
    make_runner, tmp_path
):
    runner = make_runner()
    runner.model.receipt = Receipt('backbone.pth', ('layer.weight',))
    runner.train()
    make_runner(4, resume=True).train()
    for name in ('iter_2.pth', 'iter_4.pth'):
        meta = read_checkpoint(tmp_path / 'run' / name)['meta']
        assert meta['receipt']['source'] == 'backbone.pth'


def test_dumps_go_to_the_log_file_alone(make_runner, capfd):
    runner = make_runner(log_level='INFO')
    runner.train()
    runner.logger.info('a line')
    shown = ''.join(capfd.readouterr())
    (log,) = Path(runner.log_dir).glob('*.log')
    for dump in ('System environment', 'Hooks will be executed'):
        assert dump in log.read_text()
        assert dump not in shown
    assert 'a line' in shown
