"""Names of Swin and Swin V2, to the authors', which are ours, and back.

Sources: microsoft/Swin-Transformer (models/swin_transformer.py and
swin_transformer_v2.py), mmseg/models/backbones/swin.py, transformers'
modeling_swin.py (version 5) and modeling_swinv2.py, and
timm/models/swin_transformer.py. mmsegmentation's Swin can also be borrowed;
every style is known for it as well.
"""

import re
from collections.abc import Collection

import torch
from torch import Tensor

from .key_style import KeyStyle, StateDict
from .rename import Rule, substitute

_TO_MMSEG: tuple[Rule, ...] = (
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^layers\.', 'stages.'),
    (r'\.attn\.', '.attn.w_msa.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
)
_FROM_MMSEG: tuple[Rule, ...] = (
    (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
    (r'^stages\.', 'layers.'),
    (r'\.attn\.w_msa\.', '.attn.'),
    (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
    (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
)
_FROM_TRANSFORMERS: tuple[Rule, ...] = (
    (r'^(model\.)?(swin(v2)?\.)?', ''),
    (r'^embeddings\.patch_embeddings\.projection\.', 'patch_embed.proj.'),
    (r'^embeddings\.norm\.', 'patch_embed.norm.'),
    (r'^encoder\.layers\.', 'layers.'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.attention\.(self\.query|q_proj)\.', '.attn.q.'),
    (r'\.attention\.(self\.key|k_proj)\.', '.attn.k.'),
    (r'\.attention\.(self\.value|v_proj)\.', '.attn.v.'),
    (r'\.attention\.(output\.dense|o_proj)\.', '.attn.proj.'),
    (
        r'\.attention\.(self|relative_position_bias)\.(relative_|logit_scale)',
        r'.attn.\2',
    ),
    (r'\.attention\.self\.continuous_position_bias_mlp\.', '.attn.cpb_mlp.'),
    (r'\.intermediate\.dense\.', '.mlp.fc1.'),
    (r'(\.blocks\.\d+)\.output\.dense\.', r'\1.mlp.fc2.'),
    (r'^layernorm\.', 'norm.'),
    (r'^classifier\.', 'head.'),
    (
        r'^hidden_states_norms\.stage(\d)\.',
        lambda found: f'norm{int(found[1]) - 1}.',
    ),
)
_TO_TRANSFORMERS: tuple[Rule, ...] = (
    (r'^norm(\d)\.', lambda n: f'hidden_states_norms.stage{int(n[1]) + 1}.'),
    (r'^norm\.', 'swin.layernorm.'),
    (r'^patch_embed\.proj\.', 'swin.embeddings.patch_embeddings.projection.'),
    (r'^patch_embed\.norm\.', 'swin.embeddings.norm.'),
    (r'^layers\.', 'swin.encoder.layers.'),
    (r'^head\.', 'classifier.'),
    (r'(\.blocks\.\d+)\.norm1\.', r'\1.layernorm_before.'),
    (r'(\.blocks\.\d+)\.norm2\.', r'\1.layernorm_after.'),
)
_TO_TRANSFORMERS_V1: tuple[Rule, ...] = (
    (
        r'\.attn\.relative_position_',
        '.attention.relative_position_bias.relative_position_',
    ),
    (r'\.attn\.proj\.', '.attention.o_proj.'),
    (r'\.attn\.([qkv])\.', r'.attention.\1_proj.'),
)
# Its backbone of V2 does not hold the base model, but is it.
_TO_TRANSFORMERS_V2: tuple[Rule, ...] = (
    (r'^swin\.', ''),
    (r'\.attn\.proj\.', '.attention.output.dense.'),
    (r'\.attn\.cpb_mlp\.', '.attention.self.continuous_position_bias_mlp.'),
    (r'\.attn\.(logit_scale|relative_)', r'.attention.self.\1'),
    (r'\.attn\.q(\.|_)', '.attention.self.query.'),
    (r'\.attn\.k\.', '.attention.self.key.'),
    (r'\.attn\.v(\.|_)', '.attention.self.value.'),
    (r'\.mlp\.fc1\.', '.intermediate.dense.'),
    (r'\.mlp\.fc2\.', '.output.dense.'),
)


def _merge_order(state_dict: StateDict, *, back: bool) -> dict[str, Tensor]:
    """Reorder the inputs of the patch merging.

    The authors join the four pixels (0, 0), (1, 0), (0, 1), (1, 1), channels
    inside; mmseg unfolds channels, pixels row by row inside.
    """
    values = {}
    for name, value in state_dict.items():
        if re.search(r'\.downsample\.(reduction|norm)\.', name):
            lead = value.shape[:-1]
            if back:
                pixels = value.reshape(*lead, -1, 4).transpose(-1, -2)
            else:
                pixels = value.reshape(*lead, 4, -1)
            # The exchange of the middle two is its own inverse.
            pixels = pixels[..., [0, 2, 1, 3], :]
            if not back:
                pixels = pixels.transpose(-1, -2)
            value = pixels.reshape(*lead, -1)
        values[name] = value
    return values


def _with_index(state_dict: StateDict) -> dict[str, Tensor]:
    """Add the table of relative positions, which mmseg stores."""
    values = dict(state_dict)
    for name, table in state_dict.items():
        if name.endswith('.relative_position_bias_table'):
            window = (round(len(table) ** 0.5) + 1) // 2
            steps = torch.arange(window)
            places = (steps[:, None] * (2 * window - 1) + steps).flatten()
            index = places[:, None] + places.flip(0)
            values[name.replace('bias_table', 'index')] = index
    return values


def from_mmseg(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename mmsegmentation's Swin."""
    return substitute(_merge_order(state_dict, back=True), _FROM_MMSEG)


def to_mmseg(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a Swin as mmsegmentation does; masks are left out.

    Raises:
        ValueError: It is one for volumes, or a V2.
    """
    kernel = state_dict.get('patch_embed.proj.weight')
    if _is_v2(state_dict) or (kernel is not None and kernel.ndim != 4):
        raise ValueError(
            'mmseg has the first Swin for images only; this one is Swin V2, '
            'or for volumes'
        )
    kept = {k: v for k, v in state_dict.items() if 'attn_mask' not in k}
    named = substitute(_merge_order(kept, back=False), _TO_MMSEG)
    return _with_index(named)


def _move_downsampling(state_dict: StateDict, by: int) -> dict[str, Tensor]:
    rule = (
        r'^layers\.(\d)\.downsample',
        lambda found: f'layers.{int(found[1]) + by}.downsample',
    )
    return substitute(state_dict, (rule,))


def from_timm(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename timm's Swin, which merges patches at the start of a stage."""
    named = _move_downsampling(state_dict, -1)
    return substitute(named, ((r'^head\.fc\.', 'head.'),))


def to_timm(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a Swin as timm does."""
    named = _move_downsampling(_learned(state_dict), 1)
    return substitute(named, ((r'^head\.', 'head.fc.'),))


def _is_v2(names: Collection[str]) -> bool:
    return any(name.endswith('.logit_scale') for name in names)


def _learned(state_dict: StateDict) -> dict[str, Tensor]:
    """Leave out what the authors store beside the weights."""
    computed = ('.relative_position_index', '.relative_coords_table')
    return {
        k: v
        for k, v in state_dict.items()
        if not k.endswith((*computed, '.attn_mask'))
    }


def from_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename a ``SwinModel``, ``SwinBackbone`` or classifier, also of V2.

    V2 has no bias of the keys, and keeps those of queries and values apart.
    """
    named = substitute(state_dict, _FROM_TRANSFORMERS)
    second, joined = _is_v2(named), {}
    for name, value in named.items():
        found = re.search(r'\.attn\.([qkv])\.(weight|bias)$', name)
        if found is None:
            joined[name] = value
        elif second and found[2] == 'bias':
            joined[f'{name.removesuffix(".bias")}_bias'] = value
        elif found[1] == 'q':
            parts = [named[name.replace('.q.', f'.{p}.')] for p in 'qkv']
            joined[name.replace('.q.', '.qkv.')] = torch.cat(parts)
    return joined


def to_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a Swin as transformers' backbone."""
    split = {}
    for name, value in _learned(state_dict).items():
        if '.attn.qkv.' in name:
            for part, third in zip('qkv', value.chunk(3), strict=True):
                split[name.replace('.qkv.', f'.{part}.')] = third
        else:
            split[name] = value
    second = _is_v2(state_dict)
    rules = _TO_TRANSFORMERS_V2 if second else _TO_TRANSFORMERS_V1
    return substitute(split, (*_TO_TRANSFORMERS, *rules))


def _has(names: Collection[str], *patterns: str) -> bool:
    return all(any(re.search(p, name) for name in names) for p in patterns)


def _is_mmseg(names: Collection[str]) -> bool:
    return _has(names, r'\.attn\.w_msa\.')


_FIRST_BLOCK = r'^layers\.0\.blocks\.0\.attn\.'
# Only timm merges before the last stage's blocks.
_LAST_MERGING = r'^layers\.3\.downsample\.'
_OTHERS = (
    KeyStyle(
        'official',
        lambda n: _has(n, _FIRST_BLOCK) and not _has(n, _LAST_MERGING),
        dict,
        dict,
    ),
    KeyStyle(
        'timm',
        lambda n: _has(n, _FIRST_BLOCK, _LAST_MERGING),
        from_timm,
        to_timm,
    ),
    KeyStyle(
        'transformers',
        lambda n: _has(n, r'layers\.0\.blocks\.0\.attention\.'),
        from_transformers,
        to_transformers,
    ),
)


def _of_mmseg(style: KeyStyle) -> KeyStyle:
    """Turn a style of our Swin into one of mmseg's."""
    return KeyStyle(
        style.name,
        style.recognises,
        lambda state_dict: to_mmseg(style.from_style(state_dict)),
        lambda state_dict: style.to_style(from_mmseg(state_dict)),
    )


STYLES = {
    'swin': (KeyStyle('mmseg', _is_mmseg, from_mmseg, to_mmseg), *_OTHERS),
    'mmseg.SwinTransformer': (
        KeyStyle('mmseg', _is_mmseg, dict, dict),
        *map(_of_mmseg, _OTHERS),
    ),
}
