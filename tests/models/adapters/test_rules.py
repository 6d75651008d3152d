"""Which backbone gets which adapter."""

import pytest

from upernet_ext.models.adapters import RULES, Slicewise
from upernet_ext.models.backbones import build_backbone, type_of

ARCH = dict(embed_dims=8, num_layers=4, num_heads=1)
VIT = dict(
    type='upernet_ext.VisionTransformer',
    arch=ARCH,
    out_indices=(0, 1, 2, 3),
    img_size=32,
)
MIT = dict(
    type='mmseg.MixVisionTransformer',
    embed_dims=8,
    num_layers=(1,) * 4,
    num_heads=(1, 2, 4, 8),
)


def _build(cfg, spatial_dims=3):
    return build_backbone(cfg, in_channels=1, spatial_dims=spatial_dims)


@pytest.mark.parametrize(
    ('cfg', 'by_slices'),
    [
        (dict(type='upernet_ext.ResNet', arch='resnet18'), False),
        (dict(type='upernet_ext.Xception', out_indices=(0,)), False),
        (VIT, False),
        ({**VIT, 'pretrained': 'a file'}, True),
        ({**VIT, 'adapter': 'slicewise'}, True),
        (dict(type='upernet_ext.VisionTransformer', arch='deit-t'), True),
        (dict(type='mmseg.ResNet', depth=18, base_channels=8), True),
        (MIT, True),
    ],
)
def test_defaults(cfg, by_slices):
    network, pretrained = _build(cfg)
    assert isinstance(network, Slicewise) == by_slices
    assert pretrained == cfg.get('pretrained')


def test_the_table_names_classes():
    for name in RULES:
        kind = name.split()[0]
        cls = type_of(dict(type=kind))
        assert kind == f'{cls.__module__.split(".")[0]}.{cls.__name__}'


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        ({**MIT, 'adapter': 'inflate'}, r"no adapter='inflate'; choose one"),
        (
            {**VIT, 'adapter': 'acs'},
            r"VisionTransformer' has no adapter='acs'; choose",
        ),
        ({**VIT, 'adapter': 'slicewise', 'spatial_dims': 2}, 'remove spatial'),
        (
            {**VIT, 'adapter': dict(type='inflate', slice_batch=2)},
            r"'inflate' takes \[\]",
        ),
        (
            {**VIT, 'adapter': dict(type='slicewise', slice_batch=0)},
            'positive number of slices',
        ),
        (
            {**VIT, 'adapter': dict(type='slicewise', batch=2)},
            r"takes \['slice_batch'\]",
        ),
    ],
)
def test_what_is_not_allowed_is_named(cfg, message):
    with pytest.raises(ValueError, match=message):
        _build(cfg)


def test_acs_and_thick_slices_exclude_each_other():
    cfg = dict(type='upernet_ext.ResNet', arch='resnet18', adapter='acs')
    with pytest.raises(ValueError, match='looks at three planes alike'):
        build_backbone(cfg, in_channels=1, spatial_dims=3, spacing=(5, 1, 1))


@pytest.mark.parametrize('cfg', [VIT, MIT])
def test_one_config_serves_images_too(cfg):
    network, _ = _build({**cfg, 'adapter': 'slicewise'}, 2)
    assert not isinstance(network, Slicewise)
    assert not any(n.startswith('z_convs') for n in network.state_dict())


def test_a_vit_with_weights_of_images_is_inflated_on_request():
    cfg = {**VIT, 'adapter': 'inflate', 'pretrained': 'a file'}
    assert _build(cfg)[0].inflated
    assert not _build({**VIT, 'adapter': 'inflate'})[0].inflated
