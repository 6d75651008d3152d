"""Names of transformers' ViT, ViTMAE, Dinov2, DINOv3ViT and Beit models.

Those of version 5 (modeling_vit.py and its like) and of the files that
version 4 wrote, which transformers' conversion_mapping.py lists. ``to_x``
gives version 5's. A level without final norm has no ``layernorm`` to give.
"""

from torch import Tensor

from .joining import join, split
from .key_style import StateDict
from .rename import Rule, substitute

_QKV = ('.attn.q.', '.attn.k.', '.attn.v.')
_GATED = ('.mlp.gate_proj.', '.mlp.up_proj.')
_TABLE = 'relative_position_bias.relative_position_bias_table'
_OUR_TABLE = 'rel_pos_bias.relative_position_bias_table'

_FROM: tuple[Rule, ...] = (
    (r'^(vit|beit|dinov2|dinov2_with_registers|dinov3_vit)\.', ''),
    (r'^embeddings\.patch_embeddings\.(projection\.)?', 'patch_embed.proj.'),
    (r'^embeddings\.position_embeddings$', 'pos_embed'),
    (r'^embeddings\.register_tokens$', 'reg_token'),
    (r'^embeddings\.(cls_token|mask_token)$', r'\1'),
    (r'^layernorm\.', 'norm.'),
    (
        r'^(shared_position_bias|encoder\.relative_position_bias)\.',
        'rel_pos_bias.',
    ),
    (r'^((model|encoder)\.)?layers?\.(?=\d)', 'blocks.'),
    (
        r'(?<=\d)(\.attention\.attention)?\.relative_position_bias\.',
        '.attn.rel_pos_bias.',
    ),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.layer_scale([12])\.lambda1$', r'.ls\1.gamma'),
    (r'\.lambda_([12])$', r'.ls\1.gamma'),
    (r'\.attention\.(attention\.)?(query|q_proj)\.', '.attn.q.'),
    (r'\.attention\.(attention\.)?(key|k_proj)\.', '.attn.k.'),
    (r'\.attention\.(attention\.)?(value|v_proj)\.', '.attn.v.'),
    (r'\.attention\.(output\.dense|o_proj)\.', '.attn.proj.'),
    (r'\.(intermediate\.dense|mlp\.weights_in)\.', '.mlp.fc1.'),
    (r'\.(output\.dense|mlp\.weights_out|mlp\.down_proj)\.', '.mlp.fc2.'),
)
_TO_COMMON: tuple[Rule, ...] = (
    (r'^patch_embed\.proj\.', 'embeddings.patch_embeddings.projection.'),
    (r'^pos_embed$', 'embeddings.position_embeddings'),
    (r'^cls_token$', 'embeddings.cls_token'),
    (r'^reg_token$', 'embeddings.register_tokens'),
    (r'\.attn\.([qv])_bias$', r'.attention.\1_proj.bias'),
    (r'\.attn\.([qkv])\.', r'.attention.\1_proj.'),
    (r'\.attn\.proj\.', '.attention.o_proj.'),
)
_TO_VIT: tuple[Rule, ...] = (
    *_TO_COMMON,
    (r'^blocks\.', 'layers.'),
    (r'^norm\.', 'layernorm.'),
    (r'\.norm1\.', '.layernorm_before.'),
    (r'\.norm2\.', '.layernorm_after.'),
)
_TO_BEIT: tuple[Rule, ...] = (
    *_TO_VIT,
    (r'\.ls([12])\.gamma$', r'.lambda_\1'),
    (rf'^{_OUR_TABLE}$', 'shared_position_bias.relative_position_bias_table'),
    (rf'\.attn\.{_OUR_TABLE}$', f'.{_TABLE}'),
)
_TO_DINO: tuple[Rule, ...] = (
    *_TO_COMMON,
    (r'\.ls([12])\.gamma$', r'.layer_scale\1.lambda1'),
)
_TO_DINOV2: tuple[Rule, ...] = (
    *_TO_DINO,
    (r'^blocks\.', 'encoder.layer.'),
    (r'^norm\.', 'layernorm.'),
)
_TO_DINOV3: tuple[Rule, ...] = (
    *_TO_DINO,
    (r'\.patch_embeddings\.projection\.', '.patch_embeddings.'),
    (r'^blocks\.', 'model.layer.'),
    (r'\.mlp\.fc1\.', '.mlp.up_proj.'),
    (r'\.mlp\.fc2\.', '.mlp.down_proj.'),
)


def from_vit(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename any of the models to ours; join q, k, v and gated MLPs.

    Where the keys have no bias, those of q and v are apart.
    """
    renamed = substitute(state_dict, _FROM)
    renamed = join(renamed, _QKV, '.attn.qkv.')
    renamed = join(renamed, _GATED, '.mlp.fc1.')
    rest = (
        (r'\.attn\.([qv])\.bias$', r'.attn.\1_bias'),
        (r'\.mlp\.up_proj\.', '.mlp.fc1.'),
    )
    return substitute(renamed, rest)


def to_vit(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename ours to ``ViTModel`` and ``ViTMAEModel``."""
    return substitute(split(state_dict, '.attn.qkv.', _QKV), _TO_VIT)


def to_beit(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename ours to ``BeitModel``."""
    return substitute(split(state_dict, '.attn.qkv.', _QKV), _TO_BEIT)


def to_dinov2(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename ours to ``Dinov2Model`` and ``Dinov2WithRegistersModel``.

    The mask token, which only pre-training uses, is zero as they start.
    """
    renamed = substitute(_apart(state_dict), _TO_DINOV2)
    renamed = substitute(renamed, ((r'\.mlp\.out\.', '.mlp.down_proj.'),))
    cls_token = state_dict['cls_token']
    return {
        **renamed,
        'embeddings.mask_token': cls_token.new_zeros(cls_token.shape[1:]),
    }


def to_dinov3(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename ours to ``DINOv3ViTModel``; see ``to_dinov2``."""
    renamed = substitute(_apart(state_dict), _TO_DINOV3)
    renamed = substitute(renamed, ((r'\.mlp\.out\.', '.mlp.down_proj.'),))
    cls_token = state_dict['cls_token']
    return {
        **renamed,
        'embeddings.mask_token': cls_token.new_zeros(cls_token.shape),
    }


def _apart(state_dict: StateDict) -> dict[str, Tensor]:
    """Split q, k and v, and gate and value where the MLP is gated."""
    apart = split(state_dict, '.attn.qkv.', _QKV)
    first = apart['blocks.0.mlp.fc1.weight']
    second = apart['blocks.0.mlp.fc2.weight']
    if len(first) == second.shape[1]:
        return apart
    apart = split(apart, '.mlp.fc1.', _GATED)
    return substitute(apart, ((r'\.mlp\.fc2\.', '.mlp.out.'),))
