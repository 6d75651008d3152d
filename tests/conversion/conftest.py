"""Small segmentors, and the way to another library and back."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from upernet_ext.conversion import convert
from upernet_ext.conversion.sources import build
from upernet_ext.models import EncoderDecoder

QUIET = [
    pytest.mark.filterwarnings('ignore::FutureWarning'),
    pytest.mark.filterwarnings('ignore::DeprecationWarning'),
    pytest.mark.filterwarnings('ignore::UserWarning:transformers'),
]
PLAIN = dict(
    type='upernet_ext.VisionTransformer',
    patch_size=8,
    img_size=64,
    out_indices=(0, 1, 2, 3),
)
SMALL = dict(embed_dims=8, num_layers=4, num_heads=2)
BACKBONES = {
    'swin': dict(
        type='mmseg.SwinTransformer',
        embed_dims=8,
        depths=(1, 2, 1, 1),
        num_heads=(1, 1, 2, 2),
        window_size=4,
    ),
    'resnet': dict(
        type='mmseg.ResNetV1c', depth=18, base_channels=8, stem_channels=8
    ),
    'ours': dict(type='upernet_ext.ResNet', arch='resnet18', base_channels=8),
    'convnext': dict(
        type='upernet_ext.ConvNeXt',
        depths=(1, 1, 2, 1),
        projection_dims=(8, 8, 16, 16),
        output_norm=True,
    ),
    'vit': dict(PLAIN, arch=SMALL),
    'dinov2': dict(PLAIN, arch=dict(SMALL, init_values=1.0, final_norm=True)),
    'registers': dict(
        PLAIN,
        arch=dict(SMALL, init_values=1.0, final_norm=True, num_registers=2),
    ),
    'transformers': dict(
        type='upernet_ext.TransformersBackbone',
        model_type='convnext',
        config=dict(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 2, 1]),
    ),
}
NECK = dict(type='upernet_ext.MultiLevelNeck', out_channels=8)
AUXILIARY = dict(
    type='upernet_ext.FCNHead',
    channels=6,
    in_index=2,
    num_convs=1,
    concat_input=False,
    norm_cfg=dict(type='BN'),
)


def small_model(name: str, **options) -> EncoderDecoder:
    model = build(
        dict(
            dict(
                type='upernet_ext.EncoderDecoder',
                backbone=BACKBONES[name],
                decode_head=dict(
                    type='upernet_ext.UPerHead',
                    channels=8,
                    pool_scales=(1, 3),
                    norm_cfg=dict(type='BN'),
                ),
                auxiliary_head=AUXILIARY,
                data_preprocessor=dict(
                    type='upernet_ext.SegDataPreProcessor',
                    mean=[127.5] * 3,
                    std=[51.0] * 3,
                ),
                num_classes=3,
            ),
            **options,
        )
    )
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            value.normal_(std=0.3)
        if 'running_var' in key:
            value.uniform_(0.5, 2)
    model.dataset_meta = dict(classes=['sky', 'road', 'car'])
    return model.eval()


def five_levels(**options) -> dict:
    """Change what differs where the stem is a level, too."""
    return dict(auxiliary_head=dict(AUXILIARY, in_index=3), **options)


def same_tensors(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def round_trip(model: EncoderDecoder, there: Path, to: str) -> EncoderDecoder:
    """Convert, check the receipts, and convert back to the same network."""
    root = there.parent
    first = convert(model.save_pretrained(root / 'a'), there, to=to)
    assert (first.source, first.target) == ('upernet_ext', to)
    assert first.max_difference <= 1e-5 * max(1, first.scale)
    assert first.equal_labels == 1
    config = root / 'ours.py'
    given = dict(model.init_arguments, type='upernet_ext.EncoderDecoder')
    Config(dict(model=given)).dump(config)
    back = convert(there, root / 'b', to='upernet_ext', config=config)
    assert (back.source, back.target) == (to, 'upernet_ext')
    assert back.max_difference <= 1e-5 * max(1, back.scale)
    found = EncoderDecoder.from_pretrained(root / 'b')
    assert same_tensors(found.state_dict(), model.state_dict())
    assert found.dataset_meta['classes'] == ['sky', 'road', 'car']
    x = torch.randn(1, 3, 64, 72)
    with torch.no_grad():
        assert torch.equal(found(x), model(x))
    return found
