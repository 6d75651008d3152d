"""Names of the transformers library."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_VIT = (
    (r'^vit\.', ''),
    (r'^embeddings\.cls_token$', 'cls_token'),
    (r'^embeddings\.position_embeddings$', 'pos_embed'),
    (r'^embeddings\.patch_embeddings\.projection', 'patch_embed.proj'),
    (r'^(encoder\.)?layers?\.', 'blocks.'),
    (r'layernorm_before', 'norm1'),
    (r'layernorm_after', 'norm2'),
    (r'attention\.(attention\.)?(query|q_proj)\.', 'attn.q.'),
    (r'attention\.(attention\.)?(key|k_proj)\.', 'attn.k.'),
    (r'attention\.(attention\.)?(value|v_proj)\.', 'attn.v.'),
    (r'attention\.(output\.dense|o_proj)', 'attn.proj'),
    (r'intermediate\.dense|mlp\.fc1', 'mlp.fc1'),
    (r'(?<!attn\.)output\.dense|mlp\.fc2', 'mlp.fc2'),
    (r'^layernorm\.', 'norm.'),
)


def from_vit(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a ``ViTModel`` to timm's names; join q, k and v to ``qkv``.

    Knows the names of transformers 4 (``attention.attention.query``) and 5
    (``attention.q_proj``).
    """
    renamed = {}
    for name, value in state_dict.items():
        for pattern, replacement in _VIT:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    joined = {}
    for name, value in renamed.items():
        if '.attn.q.' in name:
            parts = [name.replace('.attn.q.', f'.attn.{p}.') for p in 'qkv']
            joined[name.replace('.attn.q.', '.attn.qkv.')] = torch.cat(
                [renamed[part] for part in parts]
            )
        elif not re.search(r'\.attn\.[kv]\.', name):
            joined[name] = value
    return joined


def from_upernet_head(
    state_dict: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Rename ``UperNetHead`` or ``UperNetFCNHead`` to mmseg's names."""
    return {
        name.replace('.batch_norm.', '.bn.').replace(
            'classifier.', 'conv_seg.'
        ): value
        for name, value in state_dict.items()
    }


def from_backbone(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename a published classifier to ``TransformersBackbone``.

    ``convnext.encoder...`` becomes ``model.encoder...``; keys outside the
    base model (the classifier) keep their names.
    """
    bases = {name.split('.')[0] for name in state_dict} - {'classifier'}
    if len(bases) != 1:
        return {f'model.{name}': value for name, value in state_dict.items()}
    (base,) = bases
    return {
        re.sub(rf'^{re.escape(base)}\.', 'model.', name): value
        for name, value in state_dict.items()
    }
