"""Names of Swin, to mmsegmentation's, which is the network we borrow.

Sources: microsoft/Swin-Transformer (models/swin_transformer.py),
mmseg/models/backbones/swin.py, transformers' modeling_swin.py (version 5) and
timm/models/swin_transformer.py.
"""

import re
from collections.abc import Collection

import torch
from torch import Tensor

from .key_style import KeyStyle, StateDict
from .rename import Rule, substitute

_FROM_OFFICIAL: tuple[Rule, ...] = (
    (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
    (r'^layers\.', 'stages.'),
    (r'\.attn\.', '.attn.w_msa.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
)
_TO_OFFICIAL: tuple[Rule, ...] = (
    (r'^patch_embed\.projection\.', 'patch_embed.proj.'),
    (r'^stages\.', 'layers.'),
    (r'\.attn\.w_msa\.', '.attn.'),
    (r'\.ffn\.layers\.0\.0\.', '.mlp.fc1.'),
    (r'\.ffn\.layers\.1\.', '.mlp.fc2.'),
)
_FROM_TRANSFORMERS: tuple[Rule, ...] = (
    (r'^(model\.)?(swin\.)?', ''),
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
        r'\.attention\.(self|relative_position_bias)\.relative_position_',
        '.attn.relative_position_',
    ),
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
    (r'\.norm1\.', '.layernorm_before.'),
    (r'\.norm2\.', '.layernorm_after.'),
    (
        r'\.attn\.relative_position_',
        '.attention.relative_position_bias.relative_position_',
    ),
    (r'\.attn\.proj\.', '.attention.o_proj.'),
    (r'\.attn\.([qkv])\.', r'.attention.\1_proj.'),
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


def from_official(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the authors' release; masks of one image size are left out."""
    kept = {k: v for k, v in state_dict.items() if 'attn_mask' not in k}
    named = substitute(_merge_order(kept, back=False), _FROM_OFFICIAL)
    return _with_index(named)


def to_official(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a Swin as the authors' release does."""
    return substitute(_merge_order(state_dict, back=True), _TO_OFFICIAL)


def _move_downsampling(state_dict: StateDict, by: int) -> dict[str, Tensor]:
    rule = (
        r'^layers\.(\d)\.downsample',
        lambda found: f'layers.{int(found[1]) + by}.downsample',
    )
    return substitute(state_dict, (rule,))


def from_timm(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename timm's Swin, which merges patches at the start of a stage."""
    named = _move_downsampling(state_dict, -1)
    rules = ((r'^head\.fc\.', 'head.'),)
    return from_official(substitute(named, rules))


def to_timm(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a Swin as timm does."""
    named = _move_downsampling(to_official(state_dict), 1)
    rules = ((r'^head\.', 'head.fc.'),)
    return {
        name: value
        for name, value in substitute(named, rules).items()
        if not name.endswith('relative_position_index')
    }


def from_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename a ``SwinModel``, a ``SwinBackbone`` or one with a classifier."""
    named = substitute(state_dict, _FROM_TRANSFORMERS)
    joined = {}
    for name, value in named.items():
        if '.attn.q.' in name:
            parts = [named[name.replace('.q.', f'.{p}.')] for p in 'qkv']
            joined[name.replace('.q.', '.qkv.')] = torch.cat(parts)
        elif '.attn.k.' not in name and '.attn.v.' not in name:
            joined[name] = value
    return from_official(joined)


def to_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a Swin as transformers' backbone."""
    split = {}
    for name, value in to_official(state_dict).items():
        if name.endswith('relative_position_index'):
            continue
        if '.attn.qkv.' in name:
            for part, third in zip('qkv', value.chunk(3), strict=True):
                split[name.replace('.qkv.', f'.{part}.')] = third
        else:
            split[name] = value
    return substitute(split, _TO_TRANSFORMERS)


def _has(names: Collection[str], *patterns: str) -> bool:
    return all(any(re.search(p, name) for name in names) for p in patterns)


STYLES = {
    'mmseg.SwinTransformer': (
        KeyStyle('mmseg', lambda n: _has(n, r'\.attn\.w_msa\.'), dict, dict),
        KeyStyle(
            'official',
            lambda n: (
                _has(n, r'^layers\.0\.blocks\.0\.attn\.')
                and not _has(n, r'^layers\.3\.downsample\.')
            ),
            from_official,
            to_official,
        ),
        KeyStyle(
            'timm',
            lambda n: _has(
                n, r'^layers\.0\.blocks\.0\.attn\.', r'^layers\.3\.downsample'
            ),
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
}
