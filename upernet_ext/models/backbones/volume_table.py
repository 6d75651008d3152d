"""How exactly each kind of encoder becomes a network of volumes.

A small network of every family, with random weights and statistics, is loaded
into its form for volumes through the loading door. What a volume of identical
slices gives at every depth is compared with what the 2D network gives of the
slice: the largest difference over the standard deviation of the map.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...interop.pretrained import load_backbone
from ..adapters import allowed_adapters
from .door import accepts, build_backbone, type_of

# mm; of cubes, and of slices five times as thick.
SPACINGS = ((1.0, 1.0, 1.0), (5.0, 1.0, 1.0))
# Slices, enough for five halvings; edge of a slice.
DEPTH, EDGE = 33, 64
EXACT = 1e-4

_WIDTHS = dict(hidden_sizes=(8, 16, 24, 32), depths=(1,) * 4)
_VIT = dict(
    type='upernet_ext.VisionTransformer',
    arch=dict(
        embed_dims=32,
        num_layers=2,
        num_heads=2,
        num_registers=2,
        init_values=1.0,
        patch_size=14,
        final_norm=True,
    ),
    img_size=56,
    out_indices=(0, 1),
    inflated=True,
)
_SWIN = dict(
    type='upernet_ext.SwinTransformer',
    depths=(2, 2, 1, 1),
    embed_dims=8,
    num_heads=(1, 2, 4, 8),
    window_size=4,
)
_MMSEG_RESNET = dict(depth=18, base_channels=8)


def _resnet(arch: str, **kwargs: Any) -> dict:
    return dict(
        type='upernet_ext.ResNet',
        arch=arch,
        depths=(1,) * 4,
        base_channels=8,
        **kwargs,
    )


def _transformers(model_type: str, **config: Any) -> dict:
    return dict(
        type='upernet_ext.TransformersBackbone',
        model_type=model_type,
        config=config,
    )


# Name -> config of the backbone door.
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    'ResNet': _resnet('resnet18'),
    'ResNet vd, output stride 8': _resnet('resnet50vd', output_stride=8),
    'SE-ResNeXt': {**_resnet('seresnext50'), 'base_channels': 16},
    'ResNet V2': dict(
        type='upernet_ext.ResNetV2', depths=(1,) * 4, base_channels=8
    ),
    'RegNet': dict(
        type='upernet_ext.RegNet', arch='regnety_002', out_indices=(0, 1, 2)
    ),
    'Xception': dict(type='upernet_ext.Xception', out_indices=(0, 1, 2)),
    'DenseNet': dict(
        type='upernet_ext.DenseNet', block_layers=(2,) * 4, growth=8
    ),
    'EfficientNet': dict(
        type='upernet_ext.EfficientNet', width=0.25, depth=0.3
    ),
    'EfficientNet, TensorFlow padding': dict(
        type='upernet_ext.EfficientNet', width=0.25, depth=0.3, padding='same'
    ),
    'EfficientNetV2': dict(
        type='upernet_ext.EfficientNet',
        arch='efficientnet_v2_b0',
        width=0.25,
        depth=0.3,
    ),
    'MobileNetV2': dict(
        type='upernet_ext.EfficientNet', arch='mobilenetv2_050'
    ),
    'ConvNeXt': dict(
        type='upernet_ext.ConvNeXt',
        depths=(1,) * 4,
        projection_dims=(8, 16, 24, 32),
    ),
    'ConvNeXt V2': dict(
        type='upernet_ext.ConvNeXt',
        arch='convnext_v2_atto',
        out_indices=(0, 1, 2),
    ),
    'Swin': _SWIN,
    'Swin V2': {**_SWIN, 'v2': True},
    'MiT': dict(type='upernet_ext.MiT', arch='mit_b0', out_indices=(0, 1, 2)),
    'ViT with registers (DINOv2)': _VIT,
    'ViT with rotary positions (DINOv3)': {
        **_VIT,
        'rope': dict(base=100.0),
        'pos_embed': False,
    },
    'ViT with a bias table (BEiT)': {
        **_VIT,
        'num_registers': 0,
        'pos_embed': False,
        'rel_pos_bias': 'block',
    },
    'mmseg.ResNet': dict(type='mmseg.ResNet', **_MMSEG_RESNET),
    'mmseg.ResNetV1c': dict(type='mmseg.ResNetV1c', **_MMSEG_RESNET),
    'mmseg.ResNetV1d': dict(type='mmseg.ResNetV1d', **_MMSEG_RESNET),
    'mmseg.ResNeXt': dict(
        type='mmseg.ResNeXt',
        depth=50,
        base_channels=8,
        groups=4,
        base_width=4,
    ),
    'mmseg.MobileNetV2': dict(type='mmseg.MobileNetV2', widen_factor=0.25),
    'mmseg.MixVisionTransformer': dict(
        type='mmseg.MixVisionTransformer',
        embed_dims=8,
        num_layers=(1,) * 4,
        num_heads=(1, 2, 4, 8),
    ),
    'transformers resnet': _transformers(
        'resnet', embedding_size=8, **_WIDTHS
    ),
    'transformers regnet': _transformers(
        'regnet', embedding_size=8, groups_width=8, **_WIDTHS
    ),
    'transformers convnext': _transformers('convnext', **_WIDTHS),
    'transformers swinv2': _transformers(
        'swinv2',
        image_size=64,
        embed_dim=8,
        depths=(1,) * 4,
        num_heads=(1, 2, 4, 8),
        window_size=2,
    ),
    'transformers pvt_v2': _transformers(
        'pvt_v2',
        hidden_sizes=(8, 16, 24, 32),
        depths=(1,) * 4,
        num_attention_heads=(1, 2, 4, 8),
    ),
}


def adapters_of(cfg: Mapping[str, Any]) -> tuple[str, ...]:
    """List the adapters of a backbone, the default first.

    A ViT stands for one with weights here.
    """
    cls = type_of(cfg)
    return allowed_adapters(
        cls,
        {**cfg, 'pretrained': True},
        any_rank=accepts(cls, 'spatial_dims'),
    )


def randomise(network: nn.Module) -> None:
    """Give every parameter and statistic a value that is not its first.

    Layer scales and response norms of zero would hide what is behind them.
    """
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        if value.ndim > 1 and 'token' not in name and 'bias' not in name:
            value.normal_(0, math.prod(value.shape[1:]) ** -0.5)
        elif name.endswith(('bias', 'mean', 'token')):
            value.normal_(0, 0.3)
        else:  # scales, layer scales, variances
            value.uniform_(0.5, 1.5)


def build(
    cfg: Mapping[str, Any], spatial_dims: int, **kwargs: Any
) -> nn.Module:
    """Build a backbone for three channels, in evaluation mode."""
    network, _ = build_backbone(
        cfg, in_channels=3, spatial_dims=spatial_dims, **kwargs
    )
    network.eval()  # mmseg's returns nothing
    return network


@torch.no_grad()
def deviation(plane: nn.Module, volume: nn.Module) -> float:
    """Compare two networks on identical slices, at every level and depth.

    Args:
        plane: For images.
        volume: The same for volumes.

    Returns:
        max |difference| / standard deviation of the map.
    """
    x = torch.randn(1, 3, EDGE, EDGE)
    slices: Sequence[Tensor] = volume(x.unsqueeze(2).repeat(1, 1, DEPTH, 1, 1))
    return max(
        float((found - wanted.unsqueeze(2)).abs().max() / wanted.std())
        for found, wanted in zip(slices, plane(x), strict=True)
    )


def adapted(
    cfg: Mapping[str, Any], adapter: str, spacing: Sequence[float]
) -> tuple[nn.Module, nn.Module]:
    """Build a network for images, and the same for volumes.

    Returns:
        Both, with the same random weights.
    """
    plane = build(cfg, 2)
    randomise(plane)
    volume = build({**cfg, 'adapter': adapter}, 3, spacing=spacing)
    load_backbone(volume, plane.state_dict(), source='the 2D network')
    return plane, volume


def volume_table() -> str:
    """Measure every network under every adapter; a table in Markdown.

    Returns:
        One line a network, with the deviation for voxels that are cubes, and
        for slices five times as thick.
    """
    head = ['network', 'default', 'inflate', 'slicewise', 'acs']
    lines = [head, ['---'] * len(head)]
    for name, cfg in NETWORKS.items():
        allowed = adapters_of(cfg)
        cells = [
            _measured(cfg, adapter) if adapter in allowed else 'no'
            for adapter in ('inflate', 'slicewise')
        ]
        acs = 'yes' if _takes_acs(cfg) else 'no'
        lines.append([name, allowed[0], *cells, acs])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def _measured(cfg: Mapping[str, Any], adapter: str) -> str:
    values = []
    for spacing in SPACINGS:
        torch.manual_seed(0)
        values.append(deviation(*adapted(cfg, adapter, spacing)))
    return ', '.join(f'{value:.0e}' for value in values)


def _takes_acs(cfg: Mapping[str, Any]) -> bool:
    try:
        build({**cfg, 'adapter': 'acs'}, 3)
    except ValueError:
        return False
    return True
