"""Primus: plain ViTs for volumes, trained from scratch.

Paper: Primus: Enforcing Attention Usage for 3D Medical Image Segmentation,
https://arxiv.org/abs/2503.01835. Numbers: the authors' code,
https://github.com/MIC-DKFZ/dynamic-network-architectures/blob/178bad3/
dynamic_network_architectures/architectures/primus.py, whose blocks are
EVA-02's (timm/models/eva.py): SwiGLU with a norm inside, a norm in the
attention, no bias of the keys, layer scale, and rotary positions of which
each axis has a third. Their trainers
(nnunetv2/training/nnUNetTrainer/primus/primus_trainers.py of MIC-DKFZ/nnUNet)
set ``drop_path_rate=0.2``, AdamW at 3e-4 with weight decay 5e-2, gradients
clipped at 1. There are no published weights here.
"""

from collections.abc import Mapping
from types import MappingProxyType

from .encoder import Encoder

# Size: (embed_dims, num_layers, num_heads).
_SIZES = {
    's': (396, 12, 6),
    'b': (792, 12, 12),
    'm': (864, 16, 12),
    'l': (1056, 24, 16),
}
_PRIMUS = dict(
    patch_size=8,
    # Their usual patch of a volume, and its learned positions.
    img_size=96,
    class_token=False,
    rope=dict(base=10000.0, reference_grid='own', interleaved=True),
    qkv_bias='qv',
    attn_norm=True,
    mlp='swiglu-norm',
    mlp_ratio=8 / 3,
    init_values=0.1,
    norm_eps=1e-5,
    final_norm=True,
    inflated=False,
)

# Name -> arguments of VisionTransformer, with its dimensions.
PRESETS: Mapping[str, Mapping] = MappingProxyType(
    {
        f'primus-{size}': dict(
            embed_dims=embed_dims,
            num_layers=num_layers,
            num_heads=num_heads,
            **_PRIMUS,
        )
        for size, (embed_dims, num_layers, num_heads) in _SIZES.items()
    }
)

ENCODERS: dict[str, Encoder] = {
    name: Encoder(
        family='primus',
        backbone=dict(type='upernet_ext.VisionTransformer', arch=name),
        source='https://arxiv.org/abs/2503.01835',
        spatial_dims=(2, 3),
        neck=dict(
            type='upernet_ext.MultiLevelNeck',
            out_channels=preset['embed_dims'],
            # From a patch of 8: levels at strides 4, 8, 16 and 32.
            scales=(2, 1, 0.5, 0.25),
        ),
        reference='timm',
    )
    for name, preset in PRESETS.items()
}
