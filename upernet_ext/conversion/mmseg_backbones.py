"""Our backbones as mmsegmentation builds them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..config import ConfigError
from ..interop.key_style import KeyStyle
from ..interop.styles import library_class, styles_of
from ..models.backbones import ConvNeXt, ResNet, VisionTransformer
from .levels import resnet_kind

_SAME = KeyStyle('mmseg', lambda names: True, dict, dict)
_LIBRARIES = ('mmseg.', 'mmpretrain.')


def _convnext(backbone: ConvNeXt, given: Mapping[str, Any]) -> dict[str, Any]:
    if not backbone.output_norm:
        raise ConfigError(
            "mmpretrain's ConvNeXt has a norm a level; this one was built "
            'without (output_norm=False)'
        )
    return dict(
        type='mmpretrain.ConvNeXt',
        arch=dict(
            depths=list(backbone.depths), channels=list(backbone.out_channels)
        ),
        in_channels=backbone.stem[0].in_channels,
        out_indices=list(backbone.out_indices),
        gap_before_final_norm=False,
        use_grn=any('.grn.' in name for name in backbone.state_dict()),
        layer_scale_init_value=1e-6
        if any(name.endswith('.gamma') for name in backbone.state_dict())
        else 0.0,
    )


def _vit(
    backbone: VisionTransformer, given: Mapping[str, Any]
) -> dict[str, Any]:
    block = backbone.blocks[0]
    if backbone.norm is not None:
        raise ConfigError(
            "mmseg's VisionTransformer gives no level but the last a norm; "
            'this one was built with final_norm=True'
        )
    return dict(
        type='mmseg.VisionTransformer',
        img_size=[
            n * p
            for n, p in zip(backbone.grid, backbone.patch_size, strict=True)
        ],
        patch_size=backbone.patch_size[0],
        in_channels=backbone.patch_embed.proj.in_channels,
        embed_dims=backbone.out_channels[0],
        num_layers=len(backbone.blocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.fc1.out_features // backbone.out_channels[0],
        qkv_bias=block.attn.qkv.bias is not None,
        out_indices=list(backbone.out_indices),
        patch_bias=True,
        norm_cfg=dict(type='LN', eps=block.norm1.eps),
    )


# mmseg's depth, by depths and whether the blocks are bottlenecks.
_DEPTHS = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
# Of the output: strides and dilations of the stages.
_STRIDES = {
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
}


def _resnet(backbone: ResNet, given: Mapping[str, Any]) -> dict[str, Any]:
    arch = resnet_kind(backbone)
    depth = _DEPTHS.get((arch.depths, arch.bottleneck))
    if depth is None or arch.other:
        raise ConfigError(
            f'of our ResNets mmseg has 18 to 152, plain, vc and vd, but not '
            f'{given.get("arch", "this one")} of depths {arch.depths}'
        )
    kind = 'ResNetV1d' if arch.average else 'ResNetV1c'
    strides, dilations = _STRIDES[given.get('output_stride', 32)]
    return dict(
        type=f'mmseg.{kind if arch.deep_stem else "ResNet"}',
        depth=depth,
        in_channels=arch.in_channels,
        stem_channels=arch.stem_channels,
        base_channels=arch.stem_channels,
        out_indices=[i - 1 for i in backbone.out_indices if i],
        strides=strides,
        dilations=dilations,
        contract_dilation=True,
        norm_cfg=given.get('norm_cfg') or dict(type='BN'),
    )


# Our backbones -> the names of their parameters and their configs over there.
_BACKBONES: dict[str, tuple[str, Callable[..., dict[str, Any]]]] = {
    'upernet_ext.ResNet': ('mmseg', _resnet),
    'upernet_ext.ConvNeXt': ('mmpretrain', _convnext),
    'upernet_ext.VisionTransformer': ('mmseg.vit', _vit),
}


def mmseg_backbone(
    backbone: nn.Module, given: Mapping[str, Any]
) -> tuple[dict[str, Any], KeyStyle]:
    """Describe a backbone for mmseg.

    Args:
        backbone: Ours, or borrowed from mmseg or mmpretrain.
        given: The config that it was built from.

    Returns:
        Its config, and how its parameters are named there.

    Raises:
        ConfigError: It has no counterpart there.
    """
    cfg = {k: v for k, v in given.items() if k != 'pretrained'}
    kind = library_class(backbone)
    if str(cfg['type']).startswith(_LIBRARIES):
        return cfg, _SAME
    if kind not in _BACKBONES:
        raise ConfigError(
            f'the backbone {kind} has no counterpart in mmseg that '
            f'we know; there are {sorted(_BACKBONES)} and every type written '
            f'{" or ".join(_LIBRARIES)}'
        )
    name, describe = _BACKBONES[kind]
    (style,) = (s for s in styles_of(backbone) if s.name == name)
    return describe(backbone, given), style
