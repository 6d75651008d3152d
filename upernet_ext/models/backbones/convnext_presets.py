"""Sizes, weights and licences of ConvNeXt and ConvNeXt V2.

Weights: ConvNeXt MIT by its authors and Apache-2.0 in timm's release,
ConvNeXt V2 CC-BY-NC 4.0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from .encoder import Encoder, timm_weights


@dataclass(frozen=True)
class ConvNeXtSizes:
    """What tells one ConvNeXt from another.

    Attributes:
        depths: Blocks a stage.
        dims: Channels a stage.
        v2: The blocks of ConvNeXt V2.
        conv_mlp: The MLP as 1x1 convolutions, as timm keeps the small ones'.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    v2: bool = False
    conv_mlp: bool = False


def _widths(first: int) -> tuple[int, ...]:
    return tuple(first * 2**i for i in range(4))


# Tables 9 of the first paper and 15 of the second.
ARCHITECTURES = {
    'convnext_tiny': ConvNeXtSizes((3, 3, 9, 3), _widths(96)),
    'convnext_small': ConvNeXtSizes((3, 3, 27, 3), _widths(96)),
    'convnext_base': ConvNeXtSizes((3, 3, 27, 3), _widths(128)),
    'convnext_large': ConvNeXtSizes((3, 3, 27, 3), _widths(192)),
    'convnext_xlarge': ConvNeXtSizes((3, 3, 27, 3), _widths(256)),
    'convnext_v2_atto': ConvNeXtSizes((2, 2, 6, 2), _widths(40), True, True),
    'convnext_v2_femto': ConvNeXtSizes((2, 2, 6, 2), _widths(48), True, True),
    'convnext_v2_pico': ConvNeXtSizes((2, 2, 6, 2), _widths(64), True, True),
    'convnext_v2_nano': ConvNeXtSizes((2, 2, 8, 2), _widths(80), True, True),
    'convnext_v2_tiny': ConvNeXtSizes((3, 3, 9, 3), _widths(96), True),
    'convnext_v2_small': ConvNeXtSizes((3, 3, 27, 3), _widths(96), True),
    'convnext_v2_base': ConvNeXtSizes((3, 3, 27, 3), _widths(128), True),
    'convnext_v2_large': ConvNeXtSizes((3, 3, 27, 3), _widths(192), True),
    'convnext_v2_huge': ConvNeXtSizes((3, 3, 27, 3), _widths(352), True),
}
# timm's names of the published weights: as the segmentation recipes of the
# papers, the larger ones from ImageNet-22k.
_WEIGHTS = {
    'convnext_tiny': 'convnext_tiny.fb_in1k',
    'convnext_small': 'convnext_small.fb_in1k',
    'convnext_base': 'convnext_base.fb_in22k',
    'convnext_large': 'convnext_large.fb_in22k',
    'convnext_xlarge': 'convnext_xlarge.fb_in22k',
    'convnext_v2_atto': 'convnextv2_atto.fcmae_ft_in1k',
    'convnext_v2_femto': 'convnextv2_femto.fcmae_ft_in1k',
    'convnext_v2_pico': 'convnextv2_pico.fcmae_ft_in1k',
    'convnext_v2_nano': 'convnextv2_nano.fcmae_ft_in22k_in1k',
    'convnext_v2_tiny': 'convnextv2_tiny.fcmae_ft_in22k_in1k',
    'convnext_v2_base': 'convnextv2_base.fcmae_ft_in22k_in1k',
    'convnext_v2_large': 'convnextv2_large.fcmae_ft_in22k_in1k',
    'convnext_v2_huge': 'convnextv2_huge.fcmae_ft_in22k_in1k_384',
}


def _entry(arch: str) -> Encoder:
    weights, v2 = _WEIGHTS.get(arch), ARCHITECTURES[arch].v2
    paper = '2301.00808' if v2 else '2201.03545'
    licence = 'CC-BY-NC-4.0' if v2 else 'Apache-2.0'
    return Encoder(
        family='convnext',
        backbone=dict(type='upernet_ext.ConvNeXt', arch=arch),
        source=f'https://arxiv.org/abs/{paper}',
        spatial_dims=(2, 3),
        weights=weights and timm_weights(weights),
        licence=licence if weights else '',
        reference='timm',
    )


ENCODERS = {arch: _entry(arch) for arch in ARCHITECTURES}


def convnext_sizes(
    arch: str | None,
    depths: Sequence[int] | None,
    dims: Sequence[int] | None,
    v2: bool,
) -> ConvNeXtSizes:
    """Look ``arch`` up, or take the sizes that were given.

    Raises:
        ValueError: An unknown ``arch``, or sizes given twice or not at all.
    """
    if arch is not None:
        if arch not in ARCHITECTURES:
            raise ValueError(
                f'ConvNeXt has no arch {arch!r}; choose one of '
                f'{sorted(ARCHITECTURES)}, or leave arch out and give '
                'depths and projection_dims'
            )
        if depths is not None or dims is not None or v2:
            raise ValueError(
                f'arch={arch!r} tells depths, projection_dims and v2; '
                'give either arch or them'
            )
        return ARCHITECTURES[arch]
    if depths is None or dims is None or len(depths) != len(dims):
        raise ValueError(
            'ConvNeXt needs arch, or depths and projection_dims of one '
            f'length; got depths={depths}, projection_dims={dims}'
        )
    return ConvNeXtSizes(tuple(depths), tuple(dims), v2)
