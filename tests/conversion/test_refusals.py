"""What cannot be converted is refused, and named."""

import pytest
import torch
from mmengine.config import Config
from safetensors.torch import save_file

from upernet_ext.config import ConfigError
from upernet_ext.conversion import TARGETS, comparison, convert
from upernet_ext.conversion.sources import our_peer
from upernet_ext.interop import WeightsError, read_checkpoint

from .conftest import (
    AUXILIARY,
    BACKBONES,
    NECK,
    QUIET,
    five_levels,
    small_model,
)

pytestmark = QUIET


def test_resnets_that_others_lack_are_named(tmp_path) -> None:
    for arch in ('seresnet18', 'wide_resnet50_2'):
        backbone = dict(BACKBONES['ours'], arch=arch)
        model = small_model('ours', **five_levels(backbone=backbone))
        source = model.save_pretrained(tmp_path / arch)
        with pytest.raises(ConfigError, match=f'not {arch} of depths'):
            convert(source, tmp_path / 'b.pth', to='mmseg')
        with pytest.raises(ConfigError, match='has the plain ones'):
            convert(source, tmp_path / 'b', to='transformers')
    source = small_model(
        'ours', auxiliary_head=dict(AUXILIARY, in_index=0)
    ).save_pretrained(tmp_path / 'stem')
    with pytest.raises(ConfigError, match="level of the ResNet's stem"):
        convert(source, tmp_path / 'b.pth', to='mmseg')


@pytest.mark.parametrize(
    ('options', 'to', 'message'),
    [
        (dict(neck=NECK), 'transformers', 'has no neck'),
        (
            dict(auxiliary_head=dict(AUXILIARY, in_index=1)),
            'transformers',
            r'auxiliary_head only, .* in_index=1 \(there: 2\)',
        ),
        (
            dict(
                decode_head=dict(
                    type='upernet_ext.UPerHead',
                    channels=8,
                    norm_cfg=dict(type='GN', num_groups=2),
                )
            ),
            'transformers',
            r"norm_cfg='GN' \(there: 'BN'\)",
        ),
        (
            dict(
                decode_head=dict(
                    type='upernet_ext.UPerHead', channels=8, top_down='fused'
                )
            ),
            'mmseg',
            "cannot do {'top_down': 'fused'}",
        ),
    ],
)
def test_what_the_other_library_lacks_is_named(
    tmp_path, options, to, message
) -> None:
    source = small_model('swin', **options).save_pretrained(tmp_path / 'a')
    with pytest.raises(ConfigError, match=message):
        convert(source, tmp_path / 'b.pth', to=to)


def test_backbones_without_counterpart_are_named(tmp_path) -> None:
    for name, to in [('resnet', 'transformers'), ('transformers', 'mmseg')]:
        source = small_model(name).save_pretrained(tmp_path / name)
        with pytest.raises(ConfigError, match='has no counterpart in'):
            convert(source, tmp_path / 'b.pth', to=to)


@pytest.mark.parametrize('damage', ['renamed', 'shape', 'prefix'])
@pytest.mark.parametrize('to', ['mmseg', 'transformers'])
def test_a_damaged_file_is_refused_by_name(tmp_path, to, damage) -> None:
    model = small_model('swin')
    config = tmp_path / 'ours.py'
    given = dict(model.init_arguments, type='upernet_ext.EncoderDecoder')
    Config(dict(model=given)).dump(config)
    folder = model.save_pretrained(tmp_path / 'a')
    convert(folder, tmp_path / 'b.pth', to=to)
    weights = read_checkpoint(tmp_path / 'b.pth')['state_dict']
    name = 'decode_head.fpn_bottleneck.conv.weight'
    value = weights.pop(name)
    if damage == 'renamed':
        weights['decode_head.fpn_bottelneck.conv.weight'] = value
        message = r'fpn_bottleneck.* \(the file has .*fpn_bottelneck'
    elif damage == 'shape':
        weights[name] = value[:, :3].contiguous()
        message = rf'{name} \(\(8, 3, 3, 3\) in the file'
    else:
        weights[name] = value
        weights = {f'decode_head.wrong.{k}': v for k, v in weights.items()}
        message = r'lacks: .*wrong\.'
    path = tmp_path / 'damaged.safetensors'
    save_file(weights, path)
    with pytest.raises(WeightsError, match=message):
        convert(path, tmp_path / 'c', to='upernet_ext', config=config)


def test_numbers_that_differ_are_an_error(tmp_path, monkeypatch) -> None:
    source = small_model('swin').save_pretrained(tmp_path / 'a')
    other = our_peer(small_model('swin'))
    monkeypatch.setitem(TARGETS, 'mmseg', lambda read, path: other)
    with pytest.raises(WeightsError, match='does not compute the same'):
        convert(source, tmp_path / 'b.pth', to='mmseg')


def test_comparison_measures_the_largest_difference() -> None:
    one = comparison.Peer('a', torch.nn.Identity(), lambda x: [x])
    two = comparison.Peer(
        'b', torch.nn.Identity(), lambda x: [x + torch.eye(4)]
    )
    result = comparison.compare(one, two, (1, 2, 4, 4))
    assert result.max_difference == 1
    assert result.equal_labels == 1  # both classes move together
    flipped = comparison.Peer('c', torch.nn.Identity(), lambda x: [x.flip(1)])
    assert comparison.compare(one, flipped, (1, 2, 4, 4)).equal_labels == 0
    small = comparison.Peer(
        'd', torch.nn.Identity(), lambda x: [x[..., :2], x]
    )
    with pytest.raises(ValueError, match='d \\[\\(1, 2, 4, 2'):
        comparison.compare(one, small, (1, 2, 4, 4))
