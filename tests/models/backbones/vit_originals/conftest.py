"""Small ViTs with a preset's settings: ours, transformers' and timm's."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from upernet_ext.models import VisionTransformer
from upernet_ext.models.backbones.vit_presets import PRESETS

# Of the standard deviation of a level; both sides compute in fp32.
TOLERANCE = 1e-4
# 48 channels: SwiGLU's hidden ones are 128 by every library's rounding.
SMALL = dict(embed_dims=48, num_layers=4, num_heads=3, img_size=64)
SMALL |= dict(patch_size=8, out_indices=(0, 1, 2, 3))
LEVELS = range(4)
IMAGE = (40, 72)
PLAIN = dict(img_size=224, patch_size=16, mlp_ratio=4.0, norm_eps=1e-6)
PLAIN |= dict(qkv_bias=True, init_values=0.0, num_registers=0, mlp='gelu')


def randomise(model: nn.Module) -> nn.Module:
    """Draw everything anew: also biases, layer scales, registers, tables."""
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and name.endswith('weight')
        nn.init.normal_(parameter, std=0.3 if matrix else 1)
    return model.eval()


def settings_of(preset: str, **overrides: Any) -> dict[str, Any]:
    return {**PLAIN, **PRESETS[preset], **overrides}


def ours_for(preset: str, **overrides: Any) -> VisionTransformer:
    """Our model with all the preset says but its size."""
    arch = {**PRESETS[preset], **SMALL, **overrides}
    return VisionTransformer(arch).eval()


# ---- transformers -------------------------------------------------------


def transformers_model(
    preset: str, *, shared: bool = False, **overrides: Any
) -> nn.Module:
    """Build transformers' own model with a preset's settings."""
    cfg = settings_of(preset, **overrides)
    common = dict(
        hidden_size=cfg['embed_dims'],
        num_hidden_layers=cfg['num_layers'],
        num_attention_heads=cfg['num_heads'],
        image_size=cfg['img_size'],
        patch_size=cfg['patch_size'],
        layer_norm_eps=cfg['norm_eps'],
    )
    hidden = dict(intermediate_size=int(cfg['embed_dims'] * cfg['mlp_ratio']))
    gated = cfg['mlp'] == 'swiglu'
    if cfg['num_registers'] and preset.startswith('dinov2'):
        return transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(
                **common, use_swiglu_ffn=gated, num_register_tokens=4
            )
        )
    if 'dinov2' in preset:
        return transformers.Dinov2Model(
            transformers.Dinov2Config(**common, use_swiglu_ffn=gated)
        )
    if preset.startswith('dinov3'):
        has_bias = bool(cfg['qkv_bias'])
        return transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(
                **common,
                **hidden,
                use_gated_mlp=gated,
                hidden_act='silu' if gated else 'gelu',
                num_register_tokens=4,
                query_bias=has_bias,
                value_bias=has_bias,
            )
        )
    if 'mae' in preset:
        return transformers.ViTMAEModel(
            transformers.ViTMAEConfig(**common, **hidden, mask_ratio=0.0)
        )
    if preset.startswith('beit'):
        return transformers.BeitModel(
            transformers.BeitConfig(
                **common,
                **hidden,
                layer_scale_init_value=0.1,
                use_relative_position_bias=not shared,
                use_shared_relative_position_bias=shared,
                use_absolute_position_embeddings=shared,
            )
        )
    return transformers.ViTModel(
        transformers.ViTConfig(**common, **hidden), add_pooling_layer=False
    )


def transformers_levels(theirs: nn.Module, image: Tensor) -> list[Tensor]:
    """Every block's patches, in the order of the image."""
    options = {}
    if 'ViTM' in type(theirs).__name__ or isinstance(
        theirs, transformers.ViTModel
    ):
        options['interpolate_pos_encoding'] = True
    if isinstance(theirs, transformers.ViTMAEModel):
        grid = [s // theirs.config.patch_size for s in image.shape[2:]]
        options['noise'] = torch.rand(len(image), grid[0] * grid[1])
    output = theirs(image, output_hidden_states=True, **options)
    levels = []
    for hidden in output.hidden_states[1:]:
        grid = [s // theirs.config.patch_size for s in image.shape[2:]]
        patches = hidden[:, -grid[0] * grid[1] :]
        if 'noise' in options:  # MAE shuffles the patches
            order = output.ids_restore.unsqueeze(-1).expand_as(patches)
            patches = patches.gather(1, order)
        levels.append(patches.mT.unflatten(2, grid))
    return levels


def transformers_pair(
    preset: str, *, shared: bool = False
) -> tuple[VisionTransformer, nn.Module, Callable]:
    theirs = randomise(transformers_model(preset, shared=shared, **SMALL))
    overrides = dict(rel_pos_bias='shared', pos_embed=True) if shared else {}
    ours = ours_for(preset, **overrides)
    norm = getattr(theirs, 'layernorm', getattr(theirs, 'norm', None))

    def levels(image: Tensor) -> list[Tensor]:
        maps = transformers_levels(theirs, image)
        if ours.norm is None:
            return maps
        return [norm(m.movedim(1, -1)).movedim(-1, 1) for m in maps]

    return ours, theirs, levels


# ---- timm ---------------------------------------------------------------


def timm_pair(
    preset: str,
) -> tuple[VisionTransformer, nn.Module, Callable]:
    import timm

    cfg = settings_of(preset, **{**SMALL, 'img_size': IMAGE})
    common = dict(
        embed_dim=cfg['embed_dims'],
        depth=cfg['num_layers'],
        num_heads=cfg['num_heads'],
        img_size=cfg['img_size'],
        patch_size=cfg['patch_size'],
        mlp_ratio=cfg['mlp_ratio'],
        num_classes=0,
        init_values=cfg['init_values'] or None,
    )
    norm_layer = partial(nn.LayerNorm, eps=cfg['norm_eps'])
    if preset.startswith('beit'):
        theirs = timm.models.beit.Beit(
            **common,
            norm_layer=norm_layer,
            use_abs_pos_emb=False,
            use_rel_pos_bias=True,
        )
    elif preset.startswith(('dinov3', 'eva02')):
        eva02 = preset.startswith('eva02')
        rope = cfg['rope']
        theirs = timm.models.eva.Eva(
            **common,
            norm_layer=norm_layer,
            qkv_fused=not eva02,
            qkv_bias=bool(cfg['qkv_bias']),
            swiglu_mlp=cfg['mlp'] != 'gelu',
            scale_mlp=eva02,
            swiglu_align_to=0 if eva02 else 8,
            use_rot_pos_emb=True,
            use_abs_pos_emb=eva02,
            num_reg_tokens=cfg['num_registers'],
            use_fc_norm=False,
            rope_type='cat' if eva02 else 'dinov3',
            rope_temperature=rope['base'],
            rope_rotate_half=not eva02,
            ref_feat_shape=(16, 16) if eva02 else None,
            dynamic_img_size=not eva02,
        )
    else:
        if cfg['mlp'] == 'swiglu':  # gate and value in one
            common |= dict(
                mlp_layer=timm.layers.SwiGLUPacked, act_layer=nn.SiLU
            )
            common['mlp_ratio'] *= 2
        theirs = timm.models.VisionTransformer(
            **common,
            norm_layer=norm_layer,
            reg_tokens=cfg['num_registers'],
            no_embed_class=bool(cfg['num_registers']),
        )
    randomise(theirs)
    ours = ours_for(preset, img_size=IMAGE)

    def levels(image: Tensor) -> list[Tensor]:
        return theirs.forward_intermediates(
            image,
            indices=list(LEVELS),
            norm=ours.norm is not None,
            intermediates_only=True,
        )

    return ours, theirs, levels
