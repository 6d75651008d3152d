"""The head equals transformers' UperNetHead, by renamed weights."""

import pytest
import torch
from torch import nn
from transformers import UperNetConfig
from transformers.models.upernet.modeling_upernet import (
    UperNetFCNHead,
    UperNetHead,
)

from upernet_ext.interop import load_weights
from upernet_ext.interop.huggingface import from_upernet_head
from upernet_ext.models import FCNHead, UPerHead

CHANNELS = [12, 16, 20, 24]
SIZES = [(20, 28), (10, 14), (8, 9), (7, 6)]
NORM = dict(type='BN')


def _randomise(module: nn.Module) -> nn.Module:
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            value.normal_(std=0.3)
        if 'running_var' in name:
            value.uniform_(0.5, 2)
    return module.eval()


@pytest.mark.filterwarnings('ignore::FutureWarning')
@pytest.mark.parametrize('training', [False, True])
def test_heads_equal_transformers(training: bool) -> None:
    config = UperNetConfig(
        hidden_size=8, pool_scales=[1, 2, 3, 6], num_labels=5
    )
    config.auxiliary_channels = 6
    config.auxiliary_in_channels = CHANNELS[2]
    pairs = [
        (
            UperNetHead(config, CHANNELS),
            UPerHead(
                CHANNELS, 8, num_classes=5, norm_cfg=NORM, dropout_ratio=0
            ),
        ),
        (
            UperNetFCNHead(config, CHANNELS),
            FCNHead(
                CHANNELS[2],
                6,
                num_classes=5,
                in_index=2,
                num_convs=1,
                concat_input=False,
                norm_cfg=NORM,
                dropout_ratio=0,
            ),
        ),
    ]
    features = [
        torch.randn(2, c, *s) for c, s in zip(CHANNELS, SIZES, strict=True)
    ]
    for theirs, ours in pairs:
        _randomise(theirs)
        load_weights(
            ours, from_upernet_head(theirs.state_dict()), source='transformers'
        )
        ours.train(training)
        theirs.train(training)
        expected, found = theirs(features), ours(features)
        scale = expected.detach().abs().max().item()
        torch.testing.assert_close(
            found, expected, rtol=1e-5, atol=1e-6 * scale
        )
        weights = torch.randn_like(expected)
        (expected * weights).sum().backward()
        (found * weights).sum().backward()
        gradients = from_upernet_head(
            {k: p.grad for k, p in theirs.named_parameters()}
        )
        for name, parameter in ours.named_parameters():
            wanted = gradients[name]
            torch.testing.assert_close(
                parameter.grad,
                wanted,
                rtol=1e-4,
                atol=1e-5 * max(1, wanted.abs().max().item()),
            )
