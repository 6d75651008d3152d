"""Our models as transformers' UperNet and backbones, and back."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..config import ConfigError
from ..interop.huggingface import BACKBONE, to_segmentor
from ..interop.key_style import KeyStyle
from ..interop.styles import library_class, styles_of
from .comparison import Peer
from .levels import levels_there, resnet_kind

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# What transformers' heads have, without a choice.
_NORM, _ACTIVATION = 'BN', 'ReLU'


def _stages(out_indices: tuple[int, ...]) -> list[int]:
    """Count as transformers does, where 0 is the stem."""
    return [i + 1 for i in out_indices]


def _convnext(backbone: nn.Module) -> tuple[str, dict[str, Any]]:
    if not backbone.output_norm:
        raise ConfigError(
            "transformers' ConvNeXt has a norm a level; this one was built "
            'without (output_norm=False)'
        )
    names = backbone.state_dict()
    second = any('.grn.' in name for name in names)
    scaled = any(name.endswith('.gamma') for name in names)
    return 'convnextv2' if second else 'convnext', dict(
        num_channels=backbone.stem[0].in_channels,
        hidden_sizes=[
            names[f'stages.{i}.blocks.0.conv_dw.bias'].numel()
            for i in range(len(backbone.depths))
        ],
        depths=list(backbone.depths),
        out_indices=_stages(backbone.out_indices),
        **({} if second else dict(layer_scale_init_value=1e-6 * scaled)),
    )


def _resnet(backbone: nn.Module) -> tuple[str, dict[str, Any]]:
    arch = resnet_kind(backbone)
    if arch.other or arch.deep_stem:
        raise ConfigError(
            'of our ResNets transformers has the plain ones; its vc, vd, '
            'ResNeXt, wide and squeezed ones are none of its models'
        )
    return 'resnet', dict(
        num_channels=arch.in_channels,
        embedding_size=arch.stem_channels,
        hidden_sizes=list(arch.widths),
        depths=list(arch.depths),
        layer_type='bottleneck' if arch.bottleneck else 'basic',
        out_indices=[i for i in backbone.out_indices if i],
    )


def _swin(backbone: nn.Module) -> tuple[str, dict[str, Any]]:
    blocks = [stage.blocks for stage in backbone.stages]
    first = blocks[0][0]
    attention = first.attn.w_msa
    return 'swin', dict(
        num_channels=backbone.patch_embed.projection.in_channels,
        embed_dim=attention.embed_dims,
        depths=[len(b) for b in blocks],
        num_heads=[b[0].attn.w_msa.num_heads for b in blocks],
        window_size=attention.window_size[0],
        mlp_ratio=first.ffn.feedforward_channels / first.ffn.embed_dims,
        qkv_bias=attention.qkv.bias is not None,
        out_indices=_stages(backbone.out_indices),
    )


def _vit(backbone: nn.Module) -> tuple[str, dict[str, Any]]:
    names, block = backbone.state_dict(), backbone.blocks[0]
    registers = backbone.num_prefix_tokens - 1
    if (
        'norm.weight' not in names
        or 'blocks.0.ls1.gamma' not in names
        or 'pos_embed' not in names
    ):
        raise ConfigError(
            "of plain ViTs transformers' UperNet takes DINOv2's kind: with "
            'layer scale, learned positions and final_norm=True'
        )
    width = backbone.out_channels[0]
    arguments = dict(
        num_channels=backbone.patch_embed.proj.in_channels,
        hidden_size=width,
        num_hidden_layers=len(backbone.blocks),
        num_attention_heads=block.attn.num_heads,
        image_size=backbone.grid[0] * backbone.patch_size[0],
        patch_size=backbone.patch_size[0],
        mlp_ratio=names['blocks.0.mlp.fc2.weight'].shape[1] // width,
        layer_norm_eps=block.norm1.eps,
        out_indices=_stages(backbone.out_indices),
    )
    if registers:
        return 'dinov2_with_registers', dict(
            arguments, num_register_tokens=registers
        )
    return 'dinov2', arguments


# Classes of backbones -> the names of their parameters in transformers, and
# what tells its type and the arguments of its config.
_CONFIGS: dict[
    str, tuple[str, Callable[[nn.Module], tuple[str, dict[str, Any]]]]
] = {
    'upernet_ext.ConvNeXt': ('transformers', _convnext),
    'upernet_ext.ResNet': ('transformers', _resnet),
    'mmseg.SwinTransformer': ('transformers', _swin),
    'upernet_ext.VisionTransformer': ('transformers.dinov2', _vit),
}


def backbone_config(
    backbone: nn.Module,
) -> tuple['PreTrainedConfig', KeyStyle]:
    """Describe a backbone for transformers' ``AutoBackbone``.

    Returns:
        Its config, and how its parameters are named there.

    Raises:
        ConfigError: It has no counterpart there.
    """
    from transformers import CONFIG_MAPPING

    kind = library_class(backbone)
    if kind == 'upernet_ext.TransformersBackbone':
        return backbone.model_config, BACKBONE
    if kind not in _CONFIGS:
        raise ConfigError(
            f'the backbone {kind} has no counterpart in transformers that we '
            f'know; there are TransformersBackbone, {", ".join(_CONFIGS)}'
        )
    name, describe = _CONFIGS[kind]
    (style,) = (s for s in styles_of(backbone) if s.name == name)
    model_type, arguments = describe(backbone)
    return CONFIG_MAPPING[model_type](**arguments), style


def _check_head(
    name: str,
    head: nn.Module,
    backbone: nn.Module,
    *,
    in_index: int | list[int],
    **options: Any,
) -> None:
    """Compare a head with the only one that there is.

    Raises:
        ConfigError: It computes something else.
    """
    found = dict(
        type=type(head).__name__,
        in_index=levels_there(backbone, head.in_index),
        norm_cfg=(head.norm_cfg or {}).get('type'),
        act_cfg=(head.act_cfg or {}).get('type'),
        align_corners=head.align_corners,
    )
    if found['norm_cfg'] == 'SyncBN':
        found['norm_cfg'] = _NORM
    wanted = dict(
        options,
        in_index=in_index,
        norm_cfg=_NORM,
        act_cfg=_ACTIVATION,
        align_corners=False,
    )
    found |= {k: getattr(head, k) for k in wanted if k not in found}
    wrong = [
        f'{k}={found[k]!r} (there: {v!r})'
        for k, v in wanted.items()
        if found[k] != v
    ]
    if wrong:
        raise ConfigError(
            f"transformers' UperNet has one {name} only, and this one has "
            + ', '.join(wrong)
        )


def upernet_config(model: nn.Module) -> tuple['PreTrainedConfig', KeyStyle]:
    """Describe our ``EncoderDecoder`` for ``UperNetForSemanticSegmentation``.

    Raises:
        ConfigError: Some part has no counterpart there.
    """
    from transformers import UperNetConfig

    if hasattr(model, 'neck') and model.neck is not None:
        raise ConfigError("transformers' UperNet has no neck")
    head = model.decode_head
    config, style = backbone_config(model.backbone)
    _check_head(
        'decode_head',
        head,
        model.backbone,
        in_index=list(range(len(config.out_indices))),
        type='UPerHead',
        top_down='lateral',
        deep_supervision=False,
    )
    arguments = dict(
        backbone_config=config,
        hidden_size=head.channels,
        pool_scales=[branch[0].scale for branch in head.psp_modules],
        num_labels=head.out_channels,
        use_auxiliary_head=model.with_auxiliary_head,
        loss_ignore_index=head.ignore_index,
    )
    if model.with_auxiliary_head:
        arguments |= _auxiliary_head(model)
    names = (getattr(model, 'dataset_meta', None) or {}).get('classes')
    if names is not None and len(names) == head.out_channels:
        del arguments['num_labels']
        arguments['id2label'] = dict(enumerate(names))
        arguments['label2id'] = {name: i for i, name in enumerate(names)}
    return UperNetConfig(**arguments), style


def _auxiliary_head(model: nn.Module) -> dict[str, Any]:
    head = model.auxiliary_head
    _check_head(
        'auxiliary_head', head, model.backbone, in_index=2, type='FCNHead'
    )
    return dict(
        auxiliary_in_channels=head.in_channels,
        auxiliary_channels=head.channels,
        auxiliary_num_convs=len(head.convs),
        auxiliary_concat_input=head.concat_input,
    )


def build_transformers(model: nn.Module) -> nn.Module:
    """Build transformers' own model with our weights, every tensor of it.

    Raises:
        ConfigError: Some part has no counterpart there.
    """
    from transformers import AutoBackbone, UperNetForSemanticSegmentation

    if hasattr(model, 'decode_head'):
        config, style = upernet_config(model)
        theirs = UperNetForSemanticSegmentation(config)
        weights = to_segmentor(model.state_dict(), style)
    else:
        config, style = backbone_config(model)
        theirs = AutoBackbone.from_config(config)
        weights = style.to_style(model.state_dict())
    _load(theirs, weights)
    theirs.train(False)
    return theirs


def _load(theirs: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load completely, but for what transformers itself never uses."""
    result = theirs.load_state_dict(weights, strict=False)
    # A SwinBackbone holds the classifier's norm, and does not apply it.
    missing = [k for k in result.missing_keys if 'swin.layernorm.' not in k]
    if missing or result.unexpected_keys:
        raise ConfigError(
            f'{type(theirs).__name__} lacks {result.unexpected_keys[:8]} and '
            f'gets no {missing[:8]} from this model'
        )


def save_transformers(model: nn.Module, folder: str | os.PathLike) -> None:
    """Write a folder that transformers loads with ``from_pretrained``.

    Args:
        model: Our segmentor or backbone.
        folder: Made where it is missing.
    """
    build_transformers(model).save_pretrained(folder)
    preprocessor = getattr(model, 'data_preprocessor', None)
    if preprocessor is None or preprocessor.mean.numel() != 3:
        return
    settings = dict(
        image_processor_type='SegformerImageProcessor',
        do_resize=False,
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=(preprocessor.mean.flatten() / 255).tolist(),
        image_std=(preprocessor.std.flatten() / 255).tolist(),
    )
    text = json.dumps(settings, indent=2)
    (Path(folder) / 'preprocessor_config.json').write_text(f'{text}\n')


def read_transformers(folder: str | os.PathLike) -> Peer:
    """Load a folder with transformers, every tensor.

    Raises:
        ConfigError: transformers left a tensor at its random start.
    """
    from transformers import (
        MODEL_FOR_BACKBONE_MAPPING,
        AutoConfig,
        UperNetForSemanticSegmentation,
    )

    folder = os.fspath(folder)
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    whole = config.model_type == 'upernet'
    if whole:
        kind = UperNetForSemanticSegmentation
    else:
        kind = MODEL_FOR_BACKBONE_MAPPING[type(config)]
    module, report = kind.from_pretrained(
        folder, local_files_only=True, output_loading_info=True
    )
    missing = [k for k in report['missing_keys'] if '.layernorm.' not in k]
    if missing:
        raise ConfigError(f'{folder} lacks {sorted(missing)[:8]}')
    module.train(False)
    if whole:
        return Peer('transformers', module, lambda x: [module(x).logits])
    return Peer('transformers', module, lambda x: list(module(x).feature_maps))


def from_upernet_config(config: 'PreTrainedConfig') -> dict[str, Any]:
    """Write the config of our ``EncoderDecoder`` that equals an UperNet."""
    backbone = config.backbone_config
    own = backbone.to_diff_dict()
    for name in ('model_type', 'out_features', 'out_indices', 'num_channels'):
        own.pop(name, None)
    for name in ('transformers_version', 'stage_names', 'architectures'):
        own.pop(name, None)
    common = dict(norm_cfg=dict(type=_NORM), num_classes=config.num_labels)
    cfg = dict(
        type='upernet_ext.EncoderDecoder',
        backbone=dict(
            type='upernet_ext.TransformersBackbone',
            model_type=backbone.model_type,
            config=own,
            out_indices=list(backbone.out_indices),
        ),
        decode_head=dict(
            type='upernet_ext.UPerHead',
            channels=config.hidden_size,
            pool_scales=list(config.pool_scales),
            **common,
        ),
        num_classes=config.num_labels,
        in_channels=backbone.num_channels,
    )
    if config.use_auxiliary_head:
        cfg['auxiliary_head'] = dict(
            type='upernet_ext.FCNHead',
            in_index=2,
            channels=config.auxiliary_channels,
            num_convs=config.auxiliary_num_convs,
            concat_input=config.auxiliary_concat_input,
            **common,
        )
    return cfg
