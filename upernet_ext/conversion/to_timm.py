"""Our backbones as timm's."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..config import ConfigError
from ..interop.key_style import StateDict
from ..interop.pretrained import load_backbone
from ..interop.styles import styles_of
from ..models.backbones import TimmBackbone
from ..models.backbones.encoders import ENCODERS
from .comparison import Peer

_PUBLISHED = 'https://huggingface.co/timm/'


def to_timm(backbone: nn.Module) -> dict[str, Tensor]:
    """Name a backbone's tensors as timm does.

    Raises:
        ConfigError: Nobody told how.
    """
    if isinstance(backbone, TimmBackbone):
        names = {ours: theirs for theirs, ours in backbone.names.items()}
        return {names.get(k, k): v for k, v in backbone.state_dict().items()}
    styles = {s.name: s for s in styles_of(backbone) if s.to_style}
    if 'timm' not in styles:
        raise ConfigError(
            f'the backbone {type(backbone).__name__} has no timm names that '
            f'we know; there are {", ".join(styles) or "none at all"}'
        )
    return styles['timm'].to_style(backbone.state_dict())


def timm_name(config: Mapping[str, Any]) -> str | None:
    """Find timm's name of a network, by our table of encoders.

    Args:
        config: That it was built from; may say more than the table.
    """
    if 'model_name' in config:
        return config['model_name']
    for encoder in ENCODERS.values():
        same = encoder.backbone.items() <= dict(config).items()
        if same and str(encoder.weights).startswith(_PUBLISHED):
            name = encoder.weights.removeprefix(_PUBLISHED).split('/')[0]
            return name.split('.')[0]
    return None


def build_timm(
    config: Mapping[str, Any], weights: StateDict, *, in_channels: int
) -> Peer | None:
    """Build timm's own network with the weights.

    Args:
        config: Of our backbone.
        weights: Under timm's names.
        in_channels: Of the images.

    Returns:
        ``None`` where timm is not installed or its name is not known.
    """
    name = timm_name(config)
    if name is None:
        return None
    try:
        theirs = TimmBackbone(
            name,
            in_channels=in_channels,
            out_indices=config.get('out_indices'),
        )
    except ImportError:
        return None
    # What lies behind the maps may stay random: it cannot change them.
    theirs.optional_pretrained_keys = ('model.head.', 'model.norm.')
    load_backbone(theirs, weights, source='the converted weights')
    theirs.train(False)
    return Peer('timm', theirs, lambda x: list(theirs(x)))
