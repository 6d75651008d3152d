"""Sizes, weights and licences of Swin and Swin V2.

Weights: Swin MIT, as mmsegmentation converted the authors' release; Swin V2
Apache-2.0, by the authors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .encoder import Encoder

# Swin for videos and Swin UNETR take windows 7 or 8 deep.
_DEEPEST_WINDOW = 8


@dataclass(frozen=True)
class SwinSizes:
    """What tells one Swin from another.

    Attributes:
        embed_dims: Channels of the first stage; later ones double them.
        depths: Blocks a stage.
        num_heads: Attention heads a stage.
        window: Tokens of the edge of a window.
        v2: The blocks of Swin V2.
        units: Of V2: edges of the windows of the training images, a stage,
            where they were others.
    """

    embed_dims: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window: int
    v2: bool = False
    units: tuple[int, ...] | None = None


def _arch(
    width: int, third: int, heads: int, window: int, **kwargs
) -> SwinSizes:
    doubled = tuple(heads * 2**i for i in range(4))
    return SwinSizes(width, (2, 2, third, 2), doubled, window, **kwargs)


# Section 3.3 of the first paper and 4.1 of the second.
ARCHITECTURES = {
    'swin_tiny': _arch(96, 6, 3, 7),
    'swin_small': _arch(96, 18, 3, 7),
    'swin_base': _arch(128, 18, 4, 12),
    'swin_large': _arch(192, 18, 6, 12),
    'swin_v2_tiny': _arch(96, 6, 3, 8, v2=True),
    'swin_v2_small': _arch(96, 18, 3, 8, v2=True),
    'swin_v2_base': _arch(128, 18, 4, 8, v2=True),
    'swin_v2_large': _arch(192, 18, 6, 16, v2=True, units=(12, 12, 12, 6)),
}
_MMSEG = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain/swin'
_HUB = 'https://huggingface.co/microsoft'
_V2_LARGE = 'swinv2-large-patch4-window12to16-192to256-22kto1k-ft'
_WEIGHTS = {
    'swin_tiny': 'swin_tiny_patch4_window7_224_20220317-1cdeb081',
    'swin_small': 'swin_small_patch4_window7_224_20220317-7ba6d6dd',
    'swin_base': 'swin_base_patch4_window12_384_22k_20220317-e5c09f74',
    'swin_large': 'swin_large_patch4_window12_384_22k_20220412-6580f57d',
    'swin_v2_tiny': 'swinv2-tiny-patch4-window8-256',
    'swin_v2_small': 'swinv2-small-patch4-window8-256',
    'swin_v2_base': 'swinv2-base-patch4-window8-256',
    'swin_v2_large': _V2_LARGE,
}


def _entry(arch: str) -> Encoder:
    v2, file = ARCHITECTURES[arch].v2, _WEIGHTS[arch]
    hub = f'{_HUB}/{file}/resolve/main/pytorch_model.bin'
    return Encoder(
        family='swin_v2' if v2 else 'swin',
        backbone=dict(type='upernet_ext.SwinTransformer', arch=arch),
        source=f'https://arxiv.org/abs/{"2111.09883" if v2 else "2103.14030"}',
        spatial_dims=(2, 3),
        weights=hub if v2 else f'{_MMSEG}/{file}.pth',
        licence='Apache-2.0' if v2 else 'MIT',
        reference='transformers, timm' if v2 else 'mmseg, timm',
    )


ENCODERS = {arch: _entry(arch) for arch in ARCHITECTURES}


def swin_sizes(
    arch: str | None,
    depths: Sequence[int] | None,
    embed_dims: int | None,
    num_heads: Sequence[int] | None,
    v2: bool,
) -> SwinSizes:
    """Resolve ``arch``, or the sizes that a ``SwinTransformer`` was given.

    Raises:
        ValueError: There is no such arch, or sizes are missing.
    """
    given = (depths, embed_dims, num_heads)
    if arch is not None:
        if arch not in ARCHITECTURES:
            raise ValueError(
                f'SwinTransformer has no arch {arch!r}; choose one of '
                f'{sorted(ARCHITECTURES)}, or leave arch out and give depths, '
                'embed_dims and num_heads'
            )
        if any(size is not None for size in given) or v2:
            raise ValueError(
                f'arch={arch!r} tells depths, embed_dims, num_heads and v2; '
                'give either arch or them'
            )
        return ARCHITECTURES[arch]
    if None in given or not 0 < len(depths) == len(num_heads) <= 4:
        raise ValueError(
            'SwinTransformer needs arch, or embed_dims with depths and '
            f'num_heads of one length, at most 4; got depths={depths}, '
            f'embed_dims={embed_dims}, num_heads={num_heads}'
        )
    window = 8 if v2 else 7
    return SwinSizes(embed_dims, tuple(depths), tuple(num_heads), window, v2)


def window_edges(
    size: int | Sequence[int], spatial_dims: int
) -> tuple[int, ...]:
    """Tokens an axis of a window whose ``window_size`` may be one number.

    Raises:
        ValueError: There are more or fewer numbers than axes.
    """
    if isinstance(size, int):
        depth = (min(size, _DEEPEST_WINDOW),) * (spatial_dims - 2)
        return (*depth, size, size)
    if len(size) != spatial_dims:
        raise ValueError(
            f'window_size={size} must be one number, or {spatial_dims} for '
            f'spatial_dims={spatial_dims}'
        )
    return tuple(size)


def merging_factors(
    halvings: Sequence[Sequence[int]] | None, spatial_dims: int
) -> list[tuple[int, ...]]:
    """Pixels an axis of a patch, then tokens that each merging joins.

    Raises:
        ValueError: They are not five, of 1 and 2 an axis.
    """
    steps = halvings or ((2,) * spatial_dims,) * 5
    if len(steps) != 5 or any(
        len(step) != spatial_dims or not set(step) <= {1, 2} for step in steps
    ):
        raise ValueError(
            f'halvings must be five times {spatial_dims} ones and twos, such '
            f'as [(1, 2, 2), (2, 2, 2), ...] in 3D; got {halvings}'
        )
    first = tuple(a * b for a, b in zip(*steps[:2], strict=True))
    return [first, *map(tuple, steps[2:])]


def stage_strides(
    patch: tuple[int, ...], factors: Sequence[tuple[int, ...]]
) -> list[tuple[int, ...]]:
    """Return the strides of the stages: of the patches, then merged."""
    strides = [patch]
    for step in factors:
        strides.append(
            tuple(s * f for s, f in zip(strides[-1], step, strict=True))
        )
    return strides
