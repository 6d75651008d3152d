"""Small ViTs for images, and the same over volumes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from upernet_ext.interop import Receipt
from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.models import VisionTransformer

TINY = dict(embed_dims=24, num_layers=3, num_heads=3, out_indices=(0, 1, 2))
PATCH = 8
# What tells the families of published weights apart, in few channels.
FAMILIES = {
    'MAE': {},
    'DINOv2': dict(init_values=0.5, final_norm=True),
    'DINOv2, registers': dict(
        num_registers=4, antialias=True, init_values=0.5, final_norm=True
    ),
    'DINOv3': dict(
        pos_embed=False,
        rope=dict(base=100.0),
        num_registers=4,
        qkv_bias='qv',
        mlp='swiglu',
        init_values=0.5,
        final_norm=True,
    ),
    'EVA-02': dict(
        rope=dict(base=10000.0, reference_grid=4, interleaved=True),
        qkv_bias='qv',
        mlp='swiglu-norm',
    ),
    'BEiT': dict(
        pos_embed=False, rel_pos_bias='block', qkv_bias='qv', init_values=0.5
    ),
    'BEiT, pre-training': dict(rel_pos_bias='shared', qkv_bias='qv'),
}


def vit(family: str = 'MAE', **kwargs) -> VisionTransformer:
    cls = kwargs.pop('cls', VisionTransformer)
    arguments = dict(img_size=32, patch_size=PATCH, inflated=True)
    model = cls(TINY, **{**arguments, **FAMILIES[family], **kwargs}).eval()
    # Nothing is zero: class token, registers, positions, layer scale. And the
    # prefix tokens are heard, as they are in what is trained.
    for name, parameter in model.named_parameters():
        norm = 'norm' in name and name.endswith('weight')
        nn.init.normal_(parameter, mean=float(norm), std=0.3)
    nn.init.normal_(model.patch_embed.proj.weight, std=0.03)
    return model


def inflated(
    source: VisionTransformer, family: str = 'MAE', **kwargs
) -> tuple[VisionTransformer, Receipt]:
    options = dict(patch_size=(4, PATCH, PATCH), spatial_dims=3)
    model = vit(family, **{**options, **kwargs})
    return model, load_backbone(model, source.state_dict(), source='images')


def difference(
    volumes: VisionTransformer, images: VisionTransformer, volume: Tensor
) -> float:
    """Greatest of all levels and slices, in standard deviations."""
    worst = 0.0
    for deep, flat in zip(
        volumes(volume), images(volume[:, :, 0]), strict=True
    ):
        assert deep.shape[2] == -(-volume.shape[2] // 4)
        error = (deep - flat.unsqueeze(2)).abs().max() / flat.std()
        worst = max(worst, error.item())
    return worst


def slices(size: Sequence[int], depth: int = 10) -> Tensor:
    return torch.randn(2, 3, 1, *size).repeat(1, 1, depth, 1, 1)
