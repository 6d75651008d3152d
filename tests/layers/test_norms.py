"""torch's norms, wherever a channel has more than one value."""

import pytest
import torch
from mmcv.cnn import build_norm_layer
from torch import nn

from upernet_ext.layers import norms

both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])


def _norm(kind: str, spatial_dims: int, channels: int = 6) -> nn.Module:
    cfg = norms.norm_cfg(dict(type=kind), spatial_dims)
    layer = build_norm_layer(cfg, channels)[1]
    for name, value in layer.state_dict().items():
        if value.is_floating_point():
            value.normal_()
        if name == 'running_var':
            value.uniform_(0.5, 2)
    return layer


@both_ranks
@pytest.mark.parametrize('kind', ['BN', 'IN', 'GN', 'SyncBN'])
def test_norms_are_torchs_wherever_torch_works(
    kind: str, spatial_dims: int
) -> None:
    ours = _norm(kind, spatial_dims)
    classes = {
        'BN': [nn.BatchNorm2d, nn.BatchNorm3d],
        'SyncBN': [nn.BatchNorm2d, nn.BatchNorm3d],
        'IN': [nn.InstanceNorm2d, nn.InstanceNorm3d],
    }
    if kind == 'GN':
        theirs = nn.GroupNorm(2, 6)  # gcd(32, 6)
    else:
        theirs = classes[kind][spatial_dims - 2](6)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 6, *[3] * spatial_dims)
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        assert torch.equal(ours(x), theirs(x))
    assert ours.state_dict().keys() == theirs.state_dict().keys()


@both_ranks
def test_single_value_batch_norm_uses_running_statistics(
    spatial_dims: int,
) -> None:
    norm = _norm('BN', spatial_dims)
    x = torch.randn(1, 6, *[1] * spatial_dims, requires_grad=True)
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    expected = norm.eval()(x)
    found = norm.train()(x)
    assert torch.equal(found, expected)
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])
    found.sum().backward()
    assert x.grad.abs().min() > 0


@both_ranks
@pytest.mark.parametrize('kind', ['IN', 'GN'])
def test_single_value_is_the_identity(kind: str, spatial_dims: int) -> None:
    norm = _norm(kind, spatial_dims, channels=32)
    x = torch.randn(1, 32, *[1] * spatial_dims)
    assert torch.equal(norm(x), x)


@pytest.mark.parametrize(
    ('kind', 'spatial_dims'), [('BN3d', 2), ('BN2d', 3), ('IN2d', 3)]
)
def test_norm_of_another_rank_is_refused(kind: str, spatial_dims: int) -> None:
    with pytest.raises(ValueError, match=f'{kind}.*fits every rank'):
        norms.norm_cfg(dict(type=kind), spatial_dims)


def test_norm_config_is_copied_and_passed_on() -> None:
    cfg = dict(type='BN', momentum=0.2, requires_grad=False)
    assert norms.norm_cfg(cfg, 3) == dict(
        type='upernet_ext.BatchNorm3d', momentum=0.2, requires_grad=False
    )
    assert cfg['type'] == 'BN'
    assert norms.norm_cfg(None, 2) is None
    assert norms.norm_cfg(dict(type='LN2d'), 2) == dict(type='LN2d')


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ValueError, match='cannot split 6 channels'):
        norms.GroupNorm(6, 4)
