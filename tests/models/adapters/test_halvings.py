"""Which axes are halved, and what becomes of kernels and strides."""

import pytest
import torch

from upernet_ext.models.adapters import (
    ISOTROPIC,
    apply_halvings,
    depth_stride,
    plan_halvings,
)
from upernet_ext.models.backbones import build_backbone
from upernet_ext.registry import MODELS

RESNET = dict(type='upernet_ext.ResNet', arch='resnet18', base_channels=8)
PLANE, ALL = (1, 2, 2), (2, 2, 2)


@pytest.mark.parametrize(
    ('spacing', 'patch', 'expected'),
    [
        # get_pool_and_conv_props of MIC-DKFZ/nnUNet at 04f3cfc, with
        # min_feature_map_size=4, run for these: its first five poolings.
        (
            (3.6, 0.625, 0.625),  # prostate
            (20, 320, 256),
            (PLANE, PLANE, ALL, ALL, PLANE),
        ),
        (
            (5, 1.56, 1.56),  # heart, cine MR
            (20, 256, 224),
            (PLANE, ALL, ALL, PLANE, PLANE),
        ),
        ((5, 1, 1), (16, 256, 256), (PLANE, PLANE, ALL, ALL, PLANE)),
        ((5, 1, 1), (64, 256, 256), (PLANE, PLANE, ALL, ALL, ALL)),
        ((2.5, 0.8, 0.8), (64, 192, 160), (PLANE, ALL, ALL, ALL, ALL)),
        ((1, 1, 1), (128, 128, 128), ISOTROPIC),
        ((1, 0.5, 1), (128,) * 3, ((1, 2, 1), *[ALL] * 4)),
        ((0.4, 2, 2), (256, 128, 128), ((2, 1, 1), (2, 1, 1), *[ALL] * 3)),
        # It stops after three here; a network of five levels cannot.
        ((1, 1, 1), (40, 56, 40), ISOTROPIC),
        ((5, 1, 1), None, (PLANE, PLANE, ALL, ALL, ALL)),
    ],
)
def test_axes_are_halved_as_by_nnunet(spacing, patch, expected):
    assert plan_halvings(spacing, patch) == expected


@pytest.mark.parametrize('spacing', [(1, 1), (1, 0, 1), (1, -1, 1)])
def test_a_wrong_spacing_is_named(spacing):
    with pytest.raises(ValueError, match='three positive numbers of mm'):
        plan_halvings(spacing)


def test_patches_are_as_deep_as_wide_in_mm():
    halvings = plan_halvings((5, 1, 1))
    strides = [depth_stride((s, s), halvings) for s in (2, 4, 8, 14, 16, 32)]
    assert strides == [1, 1, 2, 4, 4, 8]
    thin = plan_halvings((0.5, 2, 2))
    assert [depth_stride((s, s), thin) for s in (2, 4, 16)] == [8, 16, 64]
    assert depth_stride((14, 14), ISOTROPIC) == 14


def _build(cfg, spacing=None):
    return build_backbone(cfg, in_channels=1, spatial_dims=3, spacing=spacing)[
        0
    ]


def test_kernels_are_flat_until_an_axis_is_halved():
    net = _build(RESNET, (5, 1, 1))
    assert net.conv1.kernel_size == (1, 7, 7)
    assert net.conv1.padding == (0, 3, 3)
    assert net.conv1.weight.shape[2:] == (1, 7, 7)
    assert net.maxpool.kernel_size == (1, 3, 3)
    assert net.maxpool.stride == PLANE
    # At stride (1, 4, 4) voxels are 5 x 4 x 4 mm.
    assert net.layer1[0].conv1.kernel_size == (3, 3, 3)
    assert net.layer2[0].conv1.stride == net.layer2[0].downsample[0].stride
    assert net.layer2[0].conv1.stride == ALL


def test_dilation_stands_for_the_halvings_it_replaces():
    halvings = [PLANE, PLANE, PLANE, PLANE, ALL]
    net = _build({**RESNET, 'output_stride': 8, 'halvings': halvings})
    assert net.out_strides[-1] == (1, 8, 8)
    assert net.layer3[1].conv1.dilation == (1, 2, 2)
    assert net.layer4[1].conv1.dilation == (2, 4, 4)
    assert net.layer4[1].conv1.kernel_size == (3, 3, 3)
    assert net.layer3[1].conv1.kernel_size == (1, 3, 3)


def test_halvings_in_a_config_win_over_the_spacing():
    cfg = {**RESNET, 'halvings': [ALL] * 4 + [PLANE]}
    assert _build(cfg, (5, 1, 1)).out_strides[-1] == (16, 32, 32)
    with pytest.raises(ValueError, match='five triples'):
        _build({**RESNET, 'halvings': [PLANE] * 4})


def test_a_plain_vit_gets_flat_patches():
    cfg = dict(type='upernet_ext.VisionTransformer', adapter='inflate')
    arch = dict(embed_dims=8, num_layers=4, num_heads=1)
    cfg |= dict(arch=arch, out_indices=(0, 1, 2, 3), img_size=32)
    net = _build(cfg, (5, 1, 1))
    assert net.patch_size == net.out_strides[0] == (4, 16, 16)
    cfg['patch_size'] = (2, 8, 8)
    assert _build(cfg, (5, 1, 1)).patch_size == (2, 8, 8)


class _Interpolating(torch.nn.Module):
    """Halve a map without a convolution or a pooling."""

    out_strides = ((2, 2, 2),)

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv3d(1, 1, 1)

    def forward(self, x):
        return self.stem(x)[..., ::2, ::2, ::2]


def test_strides_that_cannot_change_are_named():
    with pytest.raises(ValueError, match='_Interpolating, which cannot'):
        apply_halvings(_Interpolating(), (PLANE, *[ALL] * 4))


def test_images_have_no_use_for_it():
    cfg = {**RESNET, 'adapter': 'inflate', 'halvings': [PLANE] * 5}
    net, _ = build_backbone(cfg, in_channels=1, spatial_dims=2)
    assert net.out_strides[-1] == (32, 32)


@pytest.mark.parametrize('adapter', ['inflate', 'slicewise'])
def test_a_segmentor_takes_the_spacing(adapter):
    model = MODELS.build(
        dict(
            type='upernet_ext.EncoderDecoder',
            backbone={**RESNET, 'adapter': adapter},
            decode_head=dict(type='upernet_ext.UPerHead', channels=8),
            num_classes=2,
            in_channels=1,
            spatial_dims=3,
            spacing=(5, 1, 1),
        )
    ).eval()
    assert model.levels.strides == (
        *((1, 2, 2), (1, 4, 4), (2, 8, 8), (4, 16, 16)),
        (8, 32, 32),
    )
    with torch.no_grad():
        assert model(torch.randn(1, 1, 9, 64, 70)).shape[2:] == (9, 64, 70)
