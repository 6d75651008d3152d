import copy

import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn

from upernet_ext.config import ConfigError
from upernet_ext.engine.optimizers.amp import (
    AmpOptimWrapper,
    use_mixed_precision,
)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))


def wrap(net, **kwargs):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    return AmpOptimWrapper(optimizer=optimizer, **kwargs)


def step(wrapper, net, x):
    with wrapper.optim_context(net):
        y = net(x)
    wrapper.update_params(y.float().square().mean())
    return y


def test_forward_is_bfloat16_and_weights_stay_float32(net):
    wrapper, x = wrap(net), torch.randn(4, 8)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        expected = net(x)
    y = step(wrapper, net, x)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=0, atol=0)
    assert {p.dtype for p in net.parameters()} == {torch.float32}


def test_step_equals_plain_autocast(net):
    reference, x = copy.deepcopy(net), torch.randn(4, 8)
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9)
    wrapper = wrap(net, dtype='bfloat16')
    for _ in range(3):
        step(wrapper, net, x)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            y = reference(x)
        optimizer.zero_grad()
        y.float().square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(
        net.state_dict(), reference.state_dict(), rtol=0, atol=0
    )


def test_accumulated_gradients_are_their_mean(net):
    x, reference = torch.randn(4, 8), copy.deepcopy(net)
    for part in x.split(2):
        with torch.autocast('cpu', dtype=torch.bfloat16):
            y = reference(part)
        (y.float().square().mean() / 2).backward()
    torch.optim.SGD(reference.parameters(), lr=0.1).step()

    wrapper, before = (
        wrap(net, accumulative_counts=2),
        copy.deepcopy(net.state_dict()),
    )
    wrapper.initialize_count_status(net, 0, 4)
    step(wrapper, net, x[:2])
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)
    step(wrapper, net, x[2:])
    torch.testing.assert_close(net.state_dict(), reference.state_dict())


def test_gradients_are_clipped(net):
    before = copy.deepcopy(net.state_dict())
    wrapper = wrap(net, clip_grad=dict(max_norm=0.01))
    step(wrapper, net, 100 * torch.randn(4, 8))
    moved = [v - before[k] for k, v in net.state_dict().items()]
    norm = torch.cat([m.flatten() for m in moved]).norm()
    torch.testing.assert_close(norm.item(), 0.1 * 0.01, rtol=1e-4, atol=0)


def test_state_continues_the_momentum(net):
    x = torch.randn(4, 8)
    wrapper = wrap(net)
    step(wrapper, net, x)
    saved = copy.deepcopy((net.state_dict(), wrapper.state_dict()))
    step(wrapper, net, x)
    resumed = copy.deepcopy(net)
    resumed.load_state_dict(saved[0])
    other = wrap(resumed)
    other.load_state_dict(saved[1])
    step(other, resumed, x)
    torch.testing.assert_close(
        resumed.state_dict(), net.state_dict(), rtol=0, atol=0
    )


def test_state_of_a_run_without_loss_scale_is_taken(net):
    wrapper = wrap(net)
    plain = wrapper.optimizer.state_dict()
    wrapper.load_state_dict(dict(plain, loss_scaler={}))
    wrapper.load_state_dict(plain)


def test_cpu_has_no_float16(net):
    with pytest.raises(ConfigError, match="use dtype='bfloat16'"):
        wrap(net, dtype='float16')
    with pytest.raises(ConfigError, match='float32 use OptimWrapper'):
        wrap(net, dtype=torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', None])
def test_gpu_scales_the_loss_of_float16_only(net, dtype):
    net.cuda()
    wrapper = wrap(net, dtype=dtype)
    y = step(wrapper, net, torch.randn(4, 8, device='cuda'))
    assert y.dtype is getattr(torch, dtype or 'float16')
    assert wrapper.loss_scaler.is_enabled() == (dtype != 'bfloat16')


def test_plain_wrapper_is_replaced_and_others_are_not():
    cfg = ConfigDict(type='OptimWrapper', accumulative_counts=2)
    use_mixed_precision(cfg)
    assert cfg == dict(
        type='upernet_ext.AmpOptimWrapper', accumulative_counts=2
    )
    with pytest.raises(ConfigError, match='ApexOptimWrapper'):
        use_mixed_precision(ConfigDict(type='ApexOptimWrapper'))
