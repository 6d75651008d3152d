"""Names of plain vision transformers: timm's and the authors', and back.

Ours are timm's vision_transformer.py, which AugReg, DeiT, MAE, RETFound's
MAE, DINO, iBOT and VisionFM share. Here is what the others have instead:
timm's own beit.py and eva.py, facebookresearch/dinov2 and dinov3,
microsoft/unilm's BEiT (as timm) and baaivision/EVA's EVA-02.
"""

import re
from collections.abc import Callable, Collection

from torch import Tensor

from .joining import join, split
from .key_style import KeyStyle, StateDict
from .rename import Rule, substitute
from .vit_openmmlab import (
    from_openmmlab,
    to_mmpretrain_vit,
    to_mmseg_beit,
    to_mmseg_vit,
)
from .vit_transformers import (
    from_vit,
    to_beit,
    to_dinov2,
    to_dinov3,
    to_vit,
)

_QKV = ('.attn.q_proj.', '.attn.k_proj.', '.attn.v_proj.')
_GATED = ('.mlp.fc1_g.', '.mlp.fc1_x.')
_FROM_TIMM: tuple[Rule, ...] = (
    (r'\.gamma_([12])$', r'.ls\1.gamma'),
    (r'\.attn\.relative_position_', '.attn.rel_pos_bias.relative_position_'),
)
_TO_TIMM: tuple[Rule, ...] = (
    (r'\.ls([12])\.gamma$', r'.gamma_\1'),
    (r'\.attn\.rel_pos_bias\.', '.attn.'),
)


def from_timm(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename timm's ``Beit`` and ``Eva`` to ours, and BEiT's own code's."""
    renamed = substitute(state_dict, _FROM_TIMM)
    renamed = join(renamed, _QKV, '.attn.qkv.')
    renamed = join(renamed, _GATED, '.mlp.fc1.')
    return substitute(
        renamed, ((r'\.attn\.([qv])_proj\.bias$', r'.attn.\1_bias'),)
    )


def to_timm(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename ours to the timm model that has the same parts.

    ``VisionTransformer`` has position embeddings and biases of q, k and v;
    where it has registers too, the class token takes its position in.
    ``Eva`` is EVA-02 (with a norm in the MLP) or DINOv3, ``Beit`` the rest.
    """
    first = 'blocks.0.'
    rope = 'pos_embed' not in state_dict and 'reg_token' in state_dict
    if not rope and f'{first}attn.q_bias' not in state_dict:
        return _without_class_position(state_dict)
    renamed = dict(state_dict)
    if f'{first}mlp.norm.weight' in state_dict:
        renamed = split(renamed, '.attn.qkv.', _QKV)
        biases = ((r'\.attn\.([qv])_bias$', r'.attn.\1_proj.bias'),)
        renamed = substitute(renamed, biases)
    shape = state_dict[f'{first}mlp.fc2.weight'].shape
    if len(state_dict[f'{first}mlp.fc1.weight']) != shape[1]:
        renamed = split(renamed, '.mlp.fc1.', _GATED)
    return substitute(renamed, _TO_TIMM)


def _without_class_position(state_dict: StateDict) -> dict[str, Tensor]:
    if 'reg_token' not in state_dict:
        return dict(state_dict)
    position, rest = state_dict['pos_embed'].tensor_split([1], dim=1)
    cls_token = state_dict['cls_token'] + position
    return {**state_dict, 'cls_token': cls_token, 'pos_embed': rest.clone()}


def from_dinov2(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename DINOv2's own code's: registers, SwiGLU, blocks in chunks."""
    rules = (
        (r'^blocks\.\d+\.(?=\d+\.)', 'blocks.'),
        (r'^register_tokens$', 'reg_token'),
        (r'\.mlp\.w12\.', '.mlp.fc1.'),
        (r'\.mlp\.w3\.', '.mlp.fc2.'),
    )
    return substitute(state_dict, rules)


def from_dinov3(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename DINOv3's own code's; the masked bias of the keys is left out."""
    rules = (
        (r'^storage_tokens$', 'reg_token'),
        (r'\.mlp\.w1\.', '.mlp.fc1_g.'),
        (r'\.mlp\.w2\.', '.mlp.fc1_x.'),
        (r'\.mlp\.w3\.', '.mlp.fc2.'),
    )
    renamed = substitute(state_dict, rules)
    for name in state_dict:
        if f'{name}_mask' not in state_dict:
            continue
        q, _, v = renamed.pop(name).chunk(3)
        renamed[name.replace('qkv.bias', 'q_bias')] = q.clone()
        renamed[name.replace('qkv.bias', 'v_bias')] = v.clone()
    return join(renamed, _GATED, '.mlp.fc1.')


def from_eva02(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename EVA-02's own code's."""
    rules = (
        (r'\.mlp\.w1\.', '.mlp.fc1_g.'),
        (r'\.mlp\.w2\.', '.mlp.fc1_x.'),
        (r'\.mlp\.w3\.', '.mlp.fc2.'),
        (r'\.mlp\.ffn_ln\.', '.mlp.norm.'),
    )
    return from_timm(substitute(state_dict, rules))


def _finds(
    *patterns: str, without: str = r'(?!)'
) -> Callable[[Collection[str]], bool]:
    """Recognise a file with a name for each pattern, and none of another."""

    def recognises(names: Collection[str]) -> bool:
        def found(pattern: str) -> bool:
            return any(re.search(pattern, name) for name in names)

        return all(map(found, patterns)) and not found(without)

    return recognises


_EMBEDDINGS = (
    r'^((vit|beit|dinov2|dinov2_with_registers|dinov3_vit)\.)?embeddings\.'
)

STYLES: tuple[KeyStyle, ...] = (
    KeyStyle(
        'timm',
        _finds(r'^blocks\.\d+\.[a-z]', without=r'\.w12\.|\.w3\.|_mask$'),
        from_timm,
        to_timm,
    ),
    KeyStyle(
        'dinov2',
        _finds(r'^register_tokens$|^blocks\.\d+\.(\d+|mlp\.w12)\.'),
        from_dinov2,
    ),
    KeyStyle(
        'dinov3',
        _finds(r'^storage_tokens$|^blocks\..+\.bias_mask$'),
        from_dinov3,
    ),
    KeyStyle('eva02', _finds(r'^blocks\.\d+\.mlp\.ffn_ln\.'), from_eva02),
    KeyStyle(
        'transformers.vit',
        _finds(_EMBEDDINGS, r'\.layernorm_before\.', without=r'\.lambda_\d$'),
        from_vit,
        to_vit,
    ),
    KeyStyle(
        'transformers.beit',
        _finds(_EMBEDDINGS, r'\.lambda_\d$'),
        from_vit,
        to_beit,
    ),
    KeyStyle(
        'transformers.dinov2',
        _finds(_EMBEDDINGS, r'\.layer_scale\d\.', r'position_embeddings$'),
        from_vit,
        to_dinov2,
    ),
    KeyStyle(
        'transformers.dinov3',
        _finds(
            *(_EMBEDDINGS, r'\.layer_scale\d\.'),
            without=r'position_embeddings$',
        ),
        from_vit,
        to_dinov3,
    ),
    KeyStyle(
        'mmseg.vit',
        _finds(r'^layers\.\d+\.attn\.attn\.'),
        from_openmmlab,
        to_mmseg_vit,
    ),
    KeyStyle(
        'mmseg.beit',
        _finds(r'^layers\.\d+\.ffn\.', r'^layers\.\d+\.gamma_\d$'),
        from_openmmlab,
        to_mmseg_beit,
    ),
    KeyStyle(
        'mmpretrain.vit',
        _finds(
            r'^layers\.\d+\.ffn\.',
            without=r'^layers\.\d+\.(attn\.attn\.|gamma_\d$)',
        ),
        from_openmmlab,
        to_mmpretrain_vit,
    ),
)
