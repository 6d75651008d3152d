"""What ``VisionTransformer`` is built with: given, or a preset's."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from . import primus, vit_presets
from .encoder import select_levels

PRESETS = {**vit_presets.PRESETS, **primus.PRESETS}
_DIMENSIONS = ('embed_dims', 'num_layers', 'num_heads')
# What an argument is that neither the caller nor the preset gives.
_PLAIN = dict(
    patch_size=16,
    img_size=224,
    out_indices=None,
    mlp_ratio=4.0,
    mlp='gelu',
    qkv_bias=True,
    attn_norm=False,
    init_values=0.0,
    class_token=True,
    num_registers=0,
    pos_embed=True,
    antialias=False,
    rope=False,
    rel_pos_bias=False,
    norm_eps=1e-6,
    final_norm=False,
    inflated=False,
)
# Number of blocks: the blocks whose outputs make the four levels.
_OUT_INDICES = {
    12: (2, 5, 8, 11),
    16: (3, 7, 11, 15),
    24: (5, 11, 17, 23),
    32: (7, 15, 23, 31),
    40: (9, 19, 29, 39),
}


def settings(arch: str | Mapping[str, Any], **given: Any) -> dict[str, Any]:
    """Join what the caller gives with the preset and the plain ViT.

    Args:
        arch: See ``VisionTransformer``.
        **given: Its arguments; ``None`` for those that the caller left out.

    Raises:
        ValueError: An unknown ``arch``, or options that exclude each other.
    """
    if not isinstance(arch, str):
        preset = dict(arch)
        unknown = set(preset) - {*_DIMENSIONS, *_PLAIN}
        if unknown or not set(_DIMENSIONS) <= set(preset):
            raise ValueError(
                f'arch takes {list(_DIMENSIONS)}, all three, and any of '
                f'{sorted(_PLAIN)}; got {sorted(preset)}'
            )
    elif arch in PRESETS:
        # What is published for images can be inflated to volumes.
        preset = {'inflated': True, **PRESETS[arch]}
    elif arch in ('t', 's', 'b', 'l', 'h'):
        sizes = vit_presets.ARCHITECTURES[arch]
        preset = dict(zip(_DIMENSIONS, sizes, strict=True))
    else:
        close = difflib.get_close_matches(arch, PRESETS, n=3, cutoff=0.4)
        raise ValueError(
            f'VisionTransformer has no arch {arch!r}; choose one of t, s, b, '
            f'l, h, a preset ({", ".join(close or sorted(PRESETS))} ...), or '
            'give a dict with embed_dims, num_layers and num_heads'
        )
    given = {k: v for k, v in given.items() if v is not None}
    cfg = {**_PLAIN, **preset, **given}
    _check_bias(cfg)
    return cfg


def _check_bias(cfg: Mapping[str, Any]) -> None:
    kind = cfg['rel_pos_bias']
    if kind not in ('shared', 'block', False):
        raise ValueError(
            f"rel_pos_bias={kind!r} is unknown; choose 'shared', 'block' "
            'or False'
        )
    if kind and (cfg['num_registers'] or not cfg['class_token']):
        raise ValueError(
            'a relative position bias knows the class token and the '
            f'patches, but num_registers={cfg["num_registers"]} and '
            f'class_token={cfg["class_token"]}; set rel_pos_bias=False, or '
            'num_registers=0 and class_token=True'
        )


def per_axis(
    name: str, value: int | Sequence[int], spatial_dims: int
) -> tuple[int, ...]:
    """Give every axis its number.

    Raises:
        ValueError: There are more or fewer numbers than axes.
    """
    if isinstance(value, int):
        return (value,) * spatial_dims
    if len(value) != spatial_dims:
        raise ValueError(
            f'{name}={tuple(value)} has {len(value)} axes, but '
            f'spatial_dims={spatial_dims}'
        )
    return tuple(value)


def levels(
    out_indices: Sequence[int] | None, num_layers: int
) -> tuple[int, ...]:
    """Choose the blocks that give a map; by default four of equal distance.

    Raises:
        ValueError: There is no default, or they do not rise.
    """
    if out_indices is None:
        if num_layers not in _OUT_INDICES:
            raise ValueError(
                f'there are no default out_indices for {num_layers} '
                f'blocks (only for {sorted(_OUT_INDICES)}); set them'
            )
        out_indices = _OUT_INDICES[num_layers]
    return select_levels(out_indices, num_layers)
