"""Backbones of mmsegmentation and mmpretrain, and foreign modules."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from upernet_ext.interop import WeightsError, load_pretrained
from upernet_ext.models.backbones import backbone_levels, build_backbone
from upernet_ext.registry import MODELS

STAGES = (0, 1, 2, 3)
PYRAMID = (4, 8, 16, 32)
FIVE = (2, 4, 8, 16, 32)


def _branches(modules: int, count: int) -> dict:
    return dict(
        num_modules=modules,
        num_branches=count,
        block='BASIC',
        num_blocks=(1,) * count,
        num_channels=(4, 8, 16, 32)[:count],
    )


HRNET = dict(
    stage1=dict(
        num_modules=1,
        num_branches=1,
        block='BOTTLENECK',
        num_blocks=(1,),
        num_channels=(8,),
    ),
    stage2=_branches(1, 2),
    stage3=_branches(1, 3),
    stage4=_branches(1, 4),
)
TWINS = dict(
    embed_dims=[8, 16, 40, 64],
    num_heads=[1, 2, 5, 8],
    depths=[1] * 4,
    patch_sizes=[4, 2, 2, 2],
    mlp_ratios=[2] * 4,
    qkv_bias=True,
    sr_ratios=[8, 4, 2, 1],
)
SWIN = dict(embed_dims=8, depths=[1] * 4, num_heads=[1] * 4)
SWIN_V2 = dict(SWIN, extra_norm_every_n_blocks=0)
DENSENET = dict(growth_rate=4, depths=[1] * 4, init_channels=8)
# (type, arguments, strides): the smallest of each family.
MMSEG = [
    ('MixVisionTransformer', dict(embed_dims=8, num_layers=[1] * 4), PYRAMID),
    ('HRNet', dict(extra=HRNET), PYRAMID),
    ('ResNeSt', dict(depth=50), PYRAMID),
    ('PCPVT', dict(TWINS, norm_after_stage=False), PYRAMID),
    (
        'MSCAN',
        dict(
            embed_dims=[8, 16, 32, 64],
            depths=[1] * 4,
            norm_cfg=dict(type='BN'),
        ),
        PYRAMID,
    ),
]
MMPRETRAIN = [
    ('EfficientNet', dict(arch='b0', out_indices=(1, 2, 3, 4, 6)), FIVE),
    ('EfficientNetV2', dict(arch='b0', out_indices=(1, 2, 3, 5, 6)), FIVE),
    # Its maps are those behind the transitions: two at stride 32.
    ('DenseNet', dict(arch=DENSENET, out_indices=STAGES), (8, 16, 32, 32)),
    ('RegNet', dict(arch='regnetx_400mf', out_indices=STAGES), PYRAMID),
    ('SEResNet', dict(depth=50, out_indices=STAGES), PYRAMID),
    ('SEResNeXt', dict(depth=50, out_indices=STAGES), PYRAMID),
    (
        'ConvNeXt',
        dict(arch='atto', out_indices=STAGES, gap_before_final_norm=False),
        PYRAMID,
    ),
    ('SwinTransformer', dict(arch=SWIN, out_indices=STAGES), PYRAMID),
    ('SwinTransformerV2', dict(arch=SWIN_V2, out_indices=STAGES), PYRAMID),
    (
        'MobileNetV3',
        dict(arch='small_050', out_indices=(0, 1, 3, 8, 11)),
        FIVE,
    ),
    ('MobileNetV2', dict(out_indices=(1, 2, 4, 6)), PYRAMID),
    ('HRNet', dict(arch='w18'), PYRAMID),
]
BORROWED = [
    *(pytest.param(f'mmseg.{n}', a, s, id=f'mmseg.{n}') for n, a, s in MMSEG),
    *(
        pytest.param(
            f'mmpretrain.{n}',
            a,
            s,
            id=f'mmpretrain.{n}',
            marks=pytest.mark.needs_torchvision,
        )
        for n, a, s in MMPRETRAIN
    ),
]


@pytest.mark.parametrize(('kind', 'arguments', 'strides'), BORROWED)
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.filterwarnings('ignore:In MMCV v1.4.4:UserWarning')
def test_a_borrowed_type_runs_through_the_door(
    kind: str, arguments: dict, strides: tuple
) -> None:
    net, _ = build_backbone(
        dict(arguments, type=kind), in_channels=3, spatial_dims=2
    )
    levels = backbone_levels(net, in_channels=3, spatial_dims=2)
    assert levels.strides == tuple((s, s) for s in strides)
    net.train()
    maps = net(torch.randn(2, 3, 64, 96))
    for level, channels, stride in zip(
        maps, levels.channels, strides, strict=True
    ):
        assert level.shape == (2, channels, 64 // stride, 96 // stride)
    sum(level.square().mean() for level in maps).backward()


@pytest.mark.parametrize('kind', ['mmseg', 'mmpretrain'])
@pytest.mark.needs_torchvision
@torch.no_grad()
def test_a_segmentor_of_a_borrowed_type_keeps_the_size(kind: str) -> None:
    name, arguments, _ = MMSEG[0] if kind == 'mmseg' else MMPRETRAIN[10]
    net = MODELS.build(
        dict(
            type='upernet_ext.EncoderDecoder',
            backbone=dict(arguments, type=f'{kind}.{name}'),
            decode_head=dict(type='upernet_ext.UPerHead', channels=8),
            num_classes=3,
        )
    ).eval()
    assert net.encode_decode(torch.randn(1, 3, 50, 70)).shape == (1, 3, 50, 70)


# Published files


def _swin() -> nn.Module:
    cfg = dict(SWIN, type='mmseg.SwinTransformer', depths=[2, 1, 1, 1])
    return build_backbone(cfg, in_channels=3, spatial_dims=2)[0]


def test_swins_file_has_one_norm_and_masks(tmp_path) -> None:
    weights = {
        k: v for k, v in _swin().state_dict().items() if k[:4] != 'norm'
    }
    # As swin2mmseg.py of mmsegmentation leaves them.
    weights['norm.weight'] = weights['norm.bias'] = torch.zeros(64)
    weights['stages.0.blocks.1.attn_mask'] = torch.zeros(64, 49, 49)
    weights['head.weight'] = torch.zeros(1000, 64)
    torch.save(weights, tmp_path / 'swin.pth')
    receipt = load_pretrained(_swin(), str(tmp_path / 'swin.pth'))
    assert {n.split('.')[0] for n in receipt.missing} == {
        *('norm0', 'norm1', 'norm2', 'norm3')
    }
    weights['stages.0.blocks.1.attn_maks'] = torch.zeros(1)
    torch.save(weights, tmp_path / 'swin.pth')
    with pytest.raises(WeightsError, match='attn_maks'):
        load_pretrained(_swin(), str(tmp_path / 'swin.pth'))


def test_hrnets_file_has_a_classifier_of_its_own(tmp_path) -> None:
    def build() -> nn.Module:
        cfg = dict(type='mmseg.HRNet', extra=HRNET)
        return build_backbone(cfg, in_channels=3, spatial_dims=2)[0]

    weights = build().state_dict()
    for name in ('incre_modules.0.0.conv1', 'downsamp_modules.0.0'):
        weights[f'{name}.weight'] = torch.zeros(1)
    weights['final_layer.0.weight'] = torch.zeros(1)
    weights['classifier.weight'] = torch.zeros(1)
    torch.save(weights, tmp_path / 'hrnet.pth')
    receipt = load_pretrained(build(), str(tmp_path / 'hrnet.pth'))
    assert len(receipt.unused) == 4


# Foreign modules


class _Foreign(nn.Module):
    """Return what a test says, made of maps at strides 4 and 8."""

    def __init__(self, shape: object) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> object:
        return self.shape(x[..., ::4, ::4], x[..., ::8, ::8])


@pytest.mark.parametrize(
    'shape',
    [
        lambda a, b: (a, b),
        lambda a, b: [a, b],
        lambda a, b: OrderedDict(fine=a, coarse=b),
        lambda a, b: (m for m in (a, b)),
    ],
    ids=['tuple', 'list', 'dict', 'generator'],
)
def test_any_container_of_maps_will_do(shape: object) -> None:
    net = _Foreign(shape).train()
    levels = backbone_levels(net, in_channels=5, spatial_dims=2)
    assert levels.channels == (5, 5)
    assert levels.strides == ((4, 4), (8, 8))
    assert net.training


@pytest.mark.parametrize(
    ('shape', 'message'),
    [
        (lambda a, b: None, "returns \\['NoneType'\\] where feature maps"),
        (lambda a, b: (a, None), "returns \\['NoneType'\\] where feature"),
        (lambda a, b: ([a], [b]), "returns \\['list', 'list'\\] where"),
        (lambda a, b: (), 'returns nothing where feature maps'),
        (lambda a, b: a.flatten(2), r'shapes \[\(1, 3, 3136\)\], expected'),
        (lambda a, b: a[..., None], 'with 2 spatial axes'),
    ],
    ids=['none', 'hole', 'nested', 'empty', 'tokens', 'volume'],
)
def test_what_is_no_map_is_named(shape: object, message: str) -> None:
    net = _Foreign(shape).train()
    with pytest.raises(ValueError, match=message):
        backbone_levels(net, in_channels=3, spatial_dims=2)
    assert net.training
