import math

import pytest
from mmengine.config import Config

from upernet_ext.config import ConfigError
from upernet_ext.engine.checkpoint_config import checkpoint_config

CONTENT = dict(
    model=dict(
        type='upernet_ext.EncoderDecoder',
        neck=None,
        layers=[dict(scales=(4, 0.5)), [1, -2], 'a "quoted" \\ name'],
        empty=dict(),
        limit=math.inf,
    ),
    paramwise={'pos_embed.x-y': dict(decay_mult=0.0), 'norm': {3: True}},
    lr=6e-5,
)


def test_stored_config_comes_back():
    text = Config(CONTENT).pretty_text
    cfg = checkpoint_config(dict(meta=dict(cfg=text)), 'x.pth')
    assert cfg.to_dict() == CONTENT
    assert cfg.model.layers[0].scales == (4, 0.5)


@pytest.mark.parametrize(
    'text',
    [
        "a = __import__('os').getcwd()",
        "a = dict(b=open('x'))",
        'import os',
        "open('x', 'w')",
        'a.b = 1',
        'a = [b for b in (1, 2)]',
        'a = ',
    ],
)
def test_code_is_refused(text):
    with pytest.raises(ConfigError, match=r'x\.pth is more than data'):
        checkpoint_config(dict(meta=dict(cfg=text)), 'x.pth')


def test_checkpoint_without_config_is_refused():
    with pytest.raises(ConfigError, match='no config in it'):
        checkpoint_config(dict(state_dict={}), 'x.pth')
