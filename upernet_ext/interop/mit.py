"""Names of MiT, SegFormer's encoder, to the authors' and back; ours are these.

Sources: NVlabs/SegFormer (mmseg/models/backbones/mix_transformer.py),
mmseg/models/backbones/mit.py, and transformers' modeling_segformer.py, whose
version 5 has other names than version 4 and most files.
"""

import re
from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from .joining import join, split
from .key_style import KeyStyle, StateDict
from .rename import Rule, substitute

_FROM_MMSEG: tuple[Rule, ...] = (
    (r'^layers\.(\d)\.', lambda n: f'layers.{int(n[1]) + 1}.'),
    (r'^layers\.(\d)\.0\.projection\.', r'patch_embed\1.proj.'),
    (r'^layers\.(\d)\.0\.norm\.', r'patch_embed\1.norm.'),
    (r'^layers\.(\d)\.1\.', r'block\1.'),
    (r'^layers\.(\d)\.2\.', r'norm\1.'),
    (r'\.attn\.attn\.out_proj\.', '.attn.proj.'),
    (r'\.ffn\.layers\.0\.', '.mlp.fc1.'),
    (r'\.ffn\.layers\.1\.', '.mlp.dwconv.dwconv.'),
    (r'\.ffn\.layers\.4\.', '.mlp.fc2.'),
)
_TO_MMSEG: tuple[Rule, ...] = (
    (r'^patch_embed(\d)\.proj\.', r'layers.\1.0.projection.'),
    (r'^patch_embed(\d)\.norm\.', r'layers.\1.0.norm.'),
    (r'^block(\d)\.', r'layers.\1.1.'),
    (r'^norm(\d)\.', r'layers.\1.2.'),
    (r'\.attn\.proj\.', '.attn.attn.out_proj.'),
    (r'\.mlp\.fc1\.', '.ffn.layers.0.'),
    (r'\.mlp\.dwconv\.dwconv\.', '.ffn.layers.1.'),
    (r'\.mlp\.fc2\.', '.ffn.layers.4.'),
    (r'^layers\.(\d)\.', lambda n: f'layers.{int(n[1]) - 1}.'),
)
# The older names first, where they differ.
_FROM_TRANSFORMERS: tuple[Rule, ...] = (
    (r'^(model\.)?(segformer\.)?(encoder\.)?', ''),
    (r'^(patch_embeddings|layer_norm)\.(\d)\.', r'stages.\2.\1.'),
    (r'^block\.(\d)\.', r'stages.\1.blocks.'),
    (r'\.layer_norm_1\.', '.layernorm_before.'),
    (r'\.layer_norm_2\.', '.layernorm_after.'),
    (r'\.attention\.self\.(query|key|value)\.', r'.attention.\1_proj.'),
    (r'\.(q)uery_proj\.|\.(k)ey_proj\.|\.(v)alue_proj\.', r'.\1\2\3_proj.'),
    (r'\.attention\.output\.dense\.', '.attention.o_proj.'),
    (r'\.self\.sr\.', '.sequence_reduction.sequence_reduction.'),
    (r'\.self\.layer_norm\.', '.sequence_reduction.layer_norm.'),
    (r'\.mlp\.dense(\d)\.', r'.mlp.fc\1.'),
    (r'^stages\.(\d)\.', lambda n: f'stages.{int(n[1]) + 1}.'),
    (r'^stages\.(\d)\.patch_embeddings\.layer_norm\.', r'patch_embed\1.norm.'),
    (r'^stages\.(\d)\.patch_embeddings\.', r'patch_embed\1.'),
    (r'^stages\.(\d)\.blocks\.', r'block\1.'),
    (r'^stages\.(\d)\.layer_norm\.', r'norm\1.'),
    (r'\.layernorm_before\.', '.norm1.'),
    (r'\.layernorm_after\.', '.norm2.'),
    (r'\.attention\.q_proj\.', '.attn.q.'),
    (r'\.attention\.([kv])_proj\.', r'.attn.\1.'),
    (r'\.attention\.o_proj\.', '.attn.proj.'),
    (r'\.attention\.sequence_reduction\.layer_norm\.', '.attn.norm.'),
    (r'\.attention\.sequence_reduction\.sequence_reduction\.', '.attn.sr.'),
    (r'^classifier\.', 'head.'),
)
_TO_TRANSFORMERS: tuple[Rule, ...] = (
    (r'^head\.', 'classifier.'),
    (r'^patch_embed(\d)\.norm\.', r'stages.\1.patch_embeddings.layer_norm.'),
    (r'^patch_embed(\d)\.', r'stages.\1.patch_embeddings.'),
    (r'^norm(\d)\.', r'stages.\1.layer_norm.'),
    (r'^block(\d)\.', r'stages.\1.blocks.'),
    (r'\.norm1\.', '.layernorm_before.'),
    (r'\.norm2\.', '.layernorm_after.'),
    (r'\.attn\.([qkv])\.', r'.attention.\1_proj.'),
    (r'\.attn\.proj\.', '.attention.o_proj.'),
    (r'\.attn\.norm\.', '.attention.sequence_reduction.layer_norm.'),
    (r'\.attn\.sr\.', '.attention.sequence_reduction.sequence_reduction.'),
    (r'^stages\.(\d)\.', lambda n: f'segformer.stages.{int(n[1]) - 1}.'),
)
_KEYS_VALUES = ('.attn.k.', '.attn.v.')


def from_mmseg(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename mmsegmentation's ``MixVisionTransformer``.

    It has queries, keys and values in one, and 1x1 convolutions for linear
    layers.
    """
    renamed = {}
    for name, value in substitute(state_dict, _FROM_MMSEG).items():
        if '.attn.attn.in_proj_' in name:
            width = len(value) // 3
            for part, piece in (('q', value[:width]), ('kv', value[width:])):
                new = name.replace('.attn.in_proj_', f'.{part}.')
                renamed[new] = piece.clone()
        elif re.search(r'\.mlp\.fc\d\.weight$', name):
            renamed[name] = value.flatten(1)
        else:
            renamed[name] = value
    return renamed


def to_mmseg(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a MiT as mmsegmentation does.

    Raises:
        ValueError: It is one for volumes.
    """
    kernel = state_dict.get('patch_embed1.proj.weight')
    if kernel is not None and kernel.ndim != 4:
        raise ValueError('mmseg has MiT for images only, this one is not')
    values = {}
    for name, value in state_dict.items():
        if '.attn.q.' in name:
            other = state_dict[name.replace('.q.', '.kv.')]
            whole = name.replace('.attn.q.', '.attn.attn.in_proj_')
            values[whole] = torch.cat([value, other])
        elif re.search(r'\.mlp\.fc\d\.weight$', name):
            values[name] = value[:, :, None, None]
        elif '.attn.kv.' not in name:
            values[name] = value
    return substitute(values, _TO_MMSEG)


def from_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename a ``SegformerModel``, or one with a head."""
    named = substitute(state_dict, _FROM_TRANSFORMERS)
    return join(named, _KEYS_VALUES, '.attn.kv.')


def to_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a MiT as version 5 of transformers a model with a head."""
    apart = split(state_dict, '.attn.kv.', _KEYS_VALUES)
    return substitute(apart, _TO_TRANSFORMERS)


def _has(pattern: str) -> Callable[[Collection[str]], bool]:
    return lambda names: any(re.search(pattern, name) for name in names)


STYLES: Sequence[KeyStyle] = (
    KeyStyle('official', _has(r'^block1\.0\.attn\.'), dict, dict),
    KeyStyle('mmseg', _has(r'^layers\.0\.1\.0\.attn\.'), from_mmseg, to_mmseg),
    KeyStyle(
        'transformers',
        _has(r'(block\.0\.0|stages\.0\.blocks\.0)\.attention\.'),
        from_transformers,
        to_transformers,
    ),
)
