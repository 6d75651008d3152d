"""DeepLabV3+ as a whole: mmsegmentation's models, and chosen levels."""

from pathlib import Path

import mmseg
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from upernet_ext.config import load_config
from upernet_ext.interop import load_weights
from upernet_ext.models.backbones.encoder import PyramidEncoder
from upernet_ext.registry import MODELS

NORM = dict(type='BN')
LOSS = dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True)
# mmseg's deeplabv3plus_r50-d8, an eighth as wide.
BACKBONE = dict(
    type='mmseg.ResNetV1c',
    depth=50,
    base_channels=8,
    stem_channels=8,
    dilations=(1, 1, 2, 4),
    strides=(1, 2, 1, 1),
    contract_dilation=True,
)
HEAD = dict(
    channels=16,
    c1_channels=6,
    dilations=(1, 12, 24, 36),
    norm_cfg=NORM,
    dropout_ratio=0.1,
)
AUX = dict(
    channels=8, in_index=2, num_convs=1, concat_input=False, norm_cfg=NORM
)


def _theirs() -> nn.Module:
    model = MODELS.build(
        dict(
            type='mmseg.EncoderDecoder',
            data_preprocessor=dict(type='mmseg.SegDataPreProcessor'),
            backbone=BACKBONE,
            decode_head=dict(
                HEAD,
                type='mmseg.DepthwiseSeparableASPPHead',
                in_channels=256,
                in_index=3,
                c1_in_channels=32,
                num_classes=5,
                loss_decode=LOSS,
            ),
            auxiliary_head=dict(
                AUX,
                type='mmseg.FCNHead',
                in_channels=128,
                num_classes=5,
                loss_decode=LOSS,
            ),
            test_cfg=ConfigDict(mode='whole'),
        )
    )
    for key, value in model.state_dict().items():
        if 'running_var' in key:
            value.uniform_(0.5, 2)
        elif 'running_mean' in key or 'conv_seg' in key:
            value.normal_(std=0.2)
    return model.eval()


@torch.no_grad()
def test_model_of_mmseg_loads_and_computes_the_same() -> None:
    """At stride 8 the map, 37 x 40, is longer than the largest rate."""
    theirs = _theirs()
    ours = MODELS.build(
        dict(
            type='upernet_ext.EncoderDecoder',
            backbone=BACKBONE,
            decode_head=dict(HEAD, type='upernet_ext.DeepLabV3PlusHead'),
            auxiliary_head=dict(AUX, type='upernet_ext.FCNHead'),
            num_classes=5,
        )
    ).eval()
    assert ours.decode_head.in_index == [0, 3]
    receipt = load_weights(ours, theirs.state_dict(), source='mmseg')
    assert len(receipt.matched) == len(theirs.state_dict())
    image = torch.randn(1, 3, 296, 320)
    wanted = theirs.encode_decode(image, [dict(img_shape=(296, 320))])
    found = ours.encode_decode(image)
    assert wanted.std() > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings('ignore:Default ``avg_non_ignore``')
def test_published_models_have_the_keys_of_our_configs() -> None:
    """Full size: mmseg's own config against ours, name by name."""
    base = '.mim/configs/_base_/models/deeplabv3plus_r50-d8.py'
    cfg = Config.fromfile(Path(mmseg.__file__).parent / base).model
    cfg.pretrained = None
    cfg.decode_head.num_classes = cfg.auxiliary_head.num_classes = 150
    ours = load_config('deeplabv3plus_resnet50_ade20k').model
    with torch.device('meta'), DefaultScope.overwrite_default_scope('mmseg'):
        shapes = [
            {k: v.shape for k, v in MODELS.build(c).state_dict().items()}
            for c in (cfg, ours)
        ]
    assert shapes[0] == shapes[1]


class Strided(PyramidEncoder, nn.Module):
    """Five levels, each the image at every n-th pixel."""

    out_channels = (1,) * 5

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        self.out_strides = tuple((2**i,) * spatial_dims for i in range(1, 6))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [
            x[(..., *(slice(None, None, s) for s in strides))]
            for strides in self.out_strides
        ]


def _model(spatial_dims: int, **head) -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(
            dict(
                type='upernet_ext.EncoderDecoder',
                backbone=Strided(spatial_dims),
                decode_head=dict(
                    type='upernet_ext.DeepLabV3PlusHead',
                    channels=4,
                    norm_cfg=NORM,
                    **head,
                ),
                num_classes=2,
                in_channels=1,
                spatial_dims=spatial_dims,
            )
        ).eval()


@pytest.mark.parametrize('spatial_dims', [2, 3])
@pytest.mark.parametrize(
    ('head', 'strides'),
    [
        ({}, (4, 32)),
        (dict(encoder_depth=4), (4, 16)),
        (dict(encoder_depth=3, low_level='P1'), (2, 8)),
    ],
)
@torch.no_grad()
def test_only_the_chosen_levels_are_read(
    spatial_dims: int, head: dict, strides: tuple[int, int]
) -> None:
    model = _model(spatial_dims, **head)
    image = torch.rand(1, 1, *[64] * spatial_dims)
    logits = model(image)
    assert logits.shape == (1, 2, *image.shape[2:])
    # The logits follow from the pixels of those two grids alone.
    kept = torch.zeros_like(image)
    for stride in strides:
        grid = (..., *[slice(None, None, stride)] * spatial_dims)
        kept[grid] = image[grid]
    assert torch.equal(model(kept), logits)
    for stride in strides:
        less = image.clone()
        less[(..., *[slice(None, None, stride)] * spatial_dims)] = 0
        assert not torch.equal(model(less), logits)


def test_a_level_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match='encoder_depth=6 must lie'):
        _model(2, encoder_depth=6)
    with pytest.raises(ValueError, match="got 'P5'"):
        _model(2, low_level='P5')
