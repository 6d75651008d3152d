"""Names of the plain ViTs of mmseg and mmpretrain.

Sources: mmseg/models/backbones/{vit,beit,mae}.py and
mmpretrain/models/backbones/{vision_transformer,beit}.py.
"""

import re

from torch import Tensor

from .key_style import StateDict
from .rename import Rule, substitute

_FROM: tuple[Rule, ...] = (
    (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
    (r'^layers\.', 'blocks.'),
    (r'^ln1\.', 'norm.'),
    (r'^ln2\.', 'fc_norm.'),
    (r'\.ln([12])\.', r'.norm\1.'),
    (r'\.attn\.attn\.in_proj_', '.attn.qkv.'),
    (r'\.attn\.attn\.out_proj\.', '.attn.proj.'),
    (r'\.attn\.relative_position_', '.attn.rel_pos_bias.relative_position_'),
    (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
    (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
    (r'\.ffn\.w12\.', '.mlp.fc1.'),
    (r'\.ffn\.w3\.', '.mlp.fc2.'),
    (r'\.gamma_([12])$', r'.ls\1.gamma'),
    (r'\.(attn|ffn)\.gamma([12])\.weight$', r'.ls\2.gamma'),
)
_TO_COMMON: tuple[Rule, ...] = (
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^blocks\.', 'layers.'),
    (r'^norm\.', 'ln1.'),
    (r'\.norm([12])\.', r'.ln\1.'),
)
_TO_FFN: tuple[Rule, ...] = (
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
)
_TO_MMSEG_VIT: tuple[Rule, ...] = (
    *_TO_COMMON,
    *_TO_FFN,
    (r'\.attn\.qkv\.', '.attn.attn.in_proj_'),
    (r'\.attn\.proj\.', '.attn.attn.out_proj.'),
)
_TO_MMSEG_BEIT: tuple[Rule, ...] = (
    *_TO_COMMON,
    *_TO_FFN,
    (r'\.ls([12])\.gamma$', r'.gamma_\1'),
    (r'\.attn\.rel_pos_bias\.', '.attn.'),
)
_TO_MMPRETRAIN: tuple[Rule, ...] = (
    *_TO_COMMON,
    (r'\.ls1\.gamma$', '.attn.gamma1.weight'),
    (r'\.ls2\.gamma$', '.ffn.gamma2.weight'),
)


def from_openmmlab(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename mmseg's ViT, BEiT, MAE and mmpretrain's ViTs to ours."""
    return substitute(state_dict, _FROM)


def to_mmseg_vit(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename ours to ``mmseg.VisionTransformer``.

    Build it with ``patch_bias=True``; by default it drops that bias.

    Raises:
        ValueError: Parts that it lacks, such as a layer scale.
    """
    _refuse(state_dict, r'\.ls\d\.|_bias$|rel_pos_bias|^reg_token|\.mlp\.norm')
    return substitute(state_dict, _TO_MMSEG_VIT)


def to_mmseg_beit(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename ours to ``mmseg.BEiT`` and ``mmseg.MAE``.

    Raises:
        ValueError: Parts that they lack, such as registers.
    """
    _refuse(state_dict, r'^rel_pos_bias|^reg_token|\.mlp\.norm')
    return substitute(state_dict, _TO_MMSEG_BEIT)


def to_mmpretrain_vit(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename ours to ``mmpretrain.VisionTransformer``.

    Raises:
        ValueError: Parts that it lacks, such as registers.
    """
    _refuse(state_dict, r'_bias$|rel_pos_bias|^reg_token|\.mlp\.norm')
    first = state_dict['blocks.0.mlp.fc1.weight']
    second = state_dict['blocks.0.mlp.fc2.weight']
    gated = len(first) != second.shape[1]
    swiglu = ((r'\.mlp\.fc1\.', '.ffn.w12.'), (r'\.mlp\.fc2\.', '.ffn.w3.'))
    return substitute(
        state_dict, (*_TO_MMPRETRAIN, *(swiglu if gated else _TO_FFN))
    )


def _refuse(state_dict: StateDict, pattern: str) -> None:
    extra = [name for name in state_dict if re.search(pattern, name)]
    if extra:
        raise ValueError(
            f'the library has no place for {", ".join(extra[:4])}'
            f'{" ..." if len(extra) > 4 else ""}; choose another style'
        )
