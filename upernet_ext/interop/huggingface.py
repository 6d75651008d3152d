"""Names of the transformers library."""

import re
from collections.abc import Mapping

from torch import Tensor

from .key_style import KeyStyle, StateDict
from .parts import convert_parts


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


def to_upernet_head(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name mmseg's ``UPerHead`` or ``FCNHead`` as transformers does."""
    return {
        name.replace('.bn.', '.batch_norm.').replace(
            'conv_seg.', 'classifier.'
        ): value
        for name, value in state_dict.items()
    }


def to_backbone(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename ``TransformersBackbone`` to the backbone that it holds."""
    return {k.removeprefix('model.'): v for k, v in state_dict.items()}


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


# ``TransformersBackbone`` holds the backbone that transformers holds bare.
BACKBONE = KeyStyle(
    'transformers',
    lambda names: True,
    lambda state_dict: {f'model.{k}': v for k, v in state_dict.items()},
    to_backbone,
)


def from_segmentor(
    state_dict: StateDict, backbone: KeyStyle = BACKBONE
) -> dict[str, Tensor]:
    """Rename ``UperNetForSemanticSegmentation`` to our ``EncoderDecoder``.

    Args:
        state_dict: Of the whole model.
        backbone: How transformers names the backbone; by default for
            ``TransformersBackbone``.
    """
    head = from_upernet_head
    return convert_parts(
        state_dict,
        dict(
            backbone=backbone.from_style, decode_head=head, auxiliary_head=head
        ),
    )


def to_segmentor(
    state_dict: StateDict, backbone: KeyStyle = BACKBONE
) -> dict[str, Tensor]:
    """Name our ``EncoderDecoder`` as transformers; see ``from_segmentor``."""
    head = to_upernet_head
    return convert_parts(
        state_dict,
        dict(
            backbone=backbone.to_style, decode_head=head, auxiliary_head=head
        ),
    )
