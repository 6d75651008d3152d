"""Load published weights into a backbone, with a receipt."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import Tensor, nn

from .checkpoint import read_checkpoint
from .huggingface import from_backbone
from .inflate import inflate
from .key_style import KeyStyle
from .receipt import (
    Change,
    Reading,
    Receipt,
    WeightsError,
    load_weights,
    wanted_names,
)
from .styles import recognise, styles_of
from .torchvision import from_mobilenet_v2
from .vit_transformers import from_vit

KeyMap = Callable[[Mapping[str, Tensor]], dict[str, Tensor]]

# Names for ``pretrained=dict(checkpoint=..., key_map=...)``, beside the
# styles of the backbone's family.
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


def load_pretrained(
    backbone: nn.Module, pretrained: str | Mapping[str, str]
) -> Receipt:
    """Load a backbone's published weights.

    Whose names the file has is found out by itself: the styles of the
    backbone's ``key_family``, with or without a wrapper's prefix. A backbone
    may help with three more optional members: ``unused_pretrained_keys``
    (prefixes of names it has no use for), ``optional_pretrained_keys``
    (prefixes of its names that such files lack) and
    ``adapt_state_dict(state_dict) -> (state_dict, changes)``.

    Args:
        backbone: Built by the backbone door.
        pretrained: Path or https URL, or ``dict(checkpoint=path or URL,
            key_map=one of KEY_MAPS, or a style of the family)``.

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
    return load_backbone(
        backbone,
        read_checkpoint(pretrained['checkpoint'])['state_dict'],
        source=str(pretrained['checkpoint']),
        key_map=pretrained.get('key_map'),
    )


def load_backbone(
    backbone: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    source: str,
    key_map: str | None = None,
) -> Receipt:
    """Load weights of any known style; ``load_pretrained`` after reading.

    Raises:
        WeightsError: They do not match; see ``load_weights``.
    """
    reading, changes = read_backbone(
        backbone, state_dict, source=source, key_map=key_map
    )
    unused = getattr(backbone, 'unused_pretrained_keys', ())
    return load_weights(
        backbone,
        reading.state_dict,
        source=source,
        ignored=(*CLASSIFIER, *unused),
        optional=getattr(backbone, 'optional_pretrained_keys', ()),
        changes=changes,
        reading=reading,
    )


def read_backbone(
    backbone: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    source: str,
    key_map: str | None = None,
) -> tuple[Reading, list[Change]]:
    """Bring weights of any known style to a backbone's names and shapes.

    Args:
        backbone: That they are for; it is not changed.
        state_dict: As in the file.
        source: Where they come from, for messages.
        key_map: One of ``KEY_MAPS`` or of the family's styles; by default
            it is found out.

    Raises:
        WeightsError: Nothing says whose names they are.
    """
    wanted = wanted_names(backbone, state_dict)
    reading = _read(backbone, state_dict, wanted, key_map, source)
    adapted, changes = _fit_channels(backbone, reading.state_dict, wanted)
    if hasattr(backbone, 'adapt_state_dict'):
        # It may put the names where shapes can be compared.
        adapted, more = backbone.adapt_state_dict(adapted)
        changes += more
    adapted, inflated = inflate(adapted, backbone, wanted)
    adapted, late = _fit_channels(backbone, adapted, wanted)
    return replace(reading, state_dict=adapted), [*changes, *inflated, *late]


def _read(
    backbone: nn.Module,
    state_dict: Mapping[str, Tensor],
    wanted: Mapping[str, str],
    key_map: str | None,
    source: str,
) -> Reading:
    styles = styles_of(backbone)
    own_map = getattr(backbone, 'key_map', None)
    if key_map is None and own_map is None:
        return recognise(state_dict, wanted, styles, source=source)
    named = {style.name: style for style in styles}
    if key_map is not None and key_map not in (*KEY_MAPS, *named):
        raise WeightsError(
            f'key_map {key_map!r} is not known; there are '
            f'{sorted({*KEY_MAPS, *named})}'
        )
    name = key_map or own_map
    style = named.get(name) or KeyStyle(
        name, lambda names: True, KEY_MAPS[name]
    )
    if key_map is None:
        return recognise(state_dict, wanted, (style, *styles), source=source)
    # Only a wrapper's prefix is left to be found out.
    chosen = KeyStyle(style.name, lambda names: True, style.from_style)
    return recognise(state_dict, wanted, (chosen,), source=source)


def _fit_channels(
    backbone: nn.Module,
    state_dict: Mapping[str, Tensor],
    wanted: Mapping[str, str],
) -> tuple[dict[str, Tensor], list[Change]]:
    """Make the first convolution of an RGB network take other channels.

    One channel gets the sum over the three, so a grey image gives the
    response that it gave as RGB; N channels get the three in turn, times
    3 / N, so that the mean response stays. Source: timm's
    ``adapt_input_conv`` (timm/models/_manipulate.py).
    """
    own = backbone.state_dict()
    stems = [
        (name, value, own[wanted[name]].shape)
        for name, value in state_dict.items()
        if name in wanted
        and value.ndim == own[wanted[name]].ndim >= 4
        and value.shape[0] == own[wanted[name]].shape[0]
        and value.shape[1] == 3 != own[wanted[name]].shape[1]
    ]
    if len(stems) != 1:
        return dict(state_dict), []
    ((name, value, shape),) = stems
    channels = shape[1]
    if channels == 1:
        new, why = value.sum(1, keepdim=True), 'sum over red, green and blue'
    else:
        repeats = [1, -(-channels // 3), *[1] * (value.ndim - 2)]
        new = value.repeat(repeats)[:, :channels] * (3 / channels)
        why = f'red, green and blue in turn, times 3/{channels}'
    change = Change(
        name, 'reshaped', tuple(value.shape), tuple(new.shape), why
    )
    return {**state_dict, name: new}, [change]
