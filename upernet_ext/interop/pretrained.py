"""Load published weights into a backbone, with a receipt."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from .checkpoint import read_checkpoint
from .huggingface import from_backbone, from_vit
from .receipt import Receipt, WeightsError, load_weights
from .torchvision import from_mobilenet_v2

KeyMap = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

# Names for ``pretrained=dict(checkpoint=..., key_map=...)``.
KEY_MAPS: dict[str, KeyMap] = {
    'torchvision.mobilenet_v2': from_mobilenet_v2,
    'transformers': from_backbone,
    'transformers.vit': from_vit,
}

# A classifier's own layers, which a segmentor may lack (``conv2`` is
# MobileNetV2's last 1x1 convolution, which mmseg leaves out).
CLASSIFIER = (
    'fc.',
    'head.',
    'classifier.',
    'fc_norm.',
    'pre_logits.',
    'conv2.',
)


def _strip(state_dict: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Drop what a wrapper or a segmentor put before every name."""
    for prefix in ('module.', 'backbone.'):
        inside = {
            k.removeprefix(prefix): v
            for k, v in state_dict.items()
            if k.startswith(prefix)
        }
        state_dict = inside or state_dict
    return state_dict


def load_pretrained(
    backbone: nn.Module, pretrained: str | Mapping[str, str]
) -> Receipt:
    """Load a backbone's published weights.

    A backbone may help with three optional members:
    ``unused_pretrained_keys`` (prefixes of names it has no use for),
    ``optional_pretrained_keys`` (prefixes of its names that such files lack)
    and ``adapt_state_dict(state_dict) -> (state_dict, resized)``.

    Args:
        backbone: Built by the backbone door.
        pretrained: Path or https URL, or ``dict(checkpoint=path or URL,
            key_map=one of KEY_MAPS)``.

    Raises:
        WeightsError: The file does not match; see ``load_weights``.
    """
    if isinstance(pretrained, str):
        pretrained = dict(checkpoint=pretrained)
    unknown = set(pretrained) - {'checkpoint', 'key_map'}
    if unknown or 'checkpoint' not in pretrained:
        raise WeightsError(
            f'pretrained must be a path, a URL or dict(checkpoint=..., '
            f'key_map=...), got {dict(pretrained)}'
        )
    source = pretrained['checkpoint']
    state_dict = _strip(read_checkpoint(source)['state_dict'])
    key_map = pretrained.get('key_map') or getattr(backbone, 'key_map', None)
    if key_map is not None:
        if key_map not in KEY_MAPS:
            raise WeightsError(
                f'key_map {key_map!r} is not known; there are '
                f'{sorted(KEY_MAPS)}'
            )
        state_dict = KEY_MAPS[key_map](state_dict)
    resized = {}
    if hasattr(backbone, 'adapt_state_dict'):
        state_dict, resized = backbone.adapt_state_dict(state_dict)
    return load_weights(
        backbone,
        state_dict,
        source=str(source),
        ignored=(
            *CLASSIFIER,
            *getattr(backbone, 'unused_pretrained_keys', ()),
        ),
        optional=getattr(backbone, 'optional_pretrained_keys', ()),
        resized=resized,
    )
