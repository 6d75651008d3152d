"""Names of ConvNeXt and ConvNeXt V2, to timm's, which are ours, and back.

Sources: facebookresearch/ConvNeXt and ConvNeXt-V2 (models/convnext.py,
models/convnextv2.py), torchvision/models/convnext.py,
mmpretrain/models/backbones/convnext.py, and transformers'
modeling_convnext.py and modeling_convnextv2.py. All but timm keep the MLP as
linear layers; the backbone's ``adapt_state_dict`` makes them convolutions
where it has these.
"""

import re
from collections.abc import Callable, Collection

from torch import Tensor

from .key_style import KeyStyle, StateDict
from .rename import Rule, substitute


def _has(*parts: str) -> Callable[[Collection[str]], bool]:
    """Recognise a file some of whose names hold each of the parts."""

    def recognises(names: Collection[str]) -> bool:
        return all(any(part in name for name in names) for part in parts)

    return recognises


def _flat(state_dict: StateDict) -> dict[str, Tensor]:
    """Drop the broadcasting axes of layer scales and response norms."""
    return {
        name: value.flatten()
        if name.endswith('.gamma') or '.mlp.grn.' in name
        else value
        for name, value in state_dict.items()
    }


def _linear(state_dict: StateDict, *, grn_axes: int) -> dict[str, Tensor]:
    """Make 1x1 convolutions linear; response norms get leading axes."""
    values = {}
    for name, value in state_dict.items():
        if re.search(r'\.mlp\.fc[12]\.weight$', name):
            value = value.flatten(1)
        elif '.mlp.grn.' in name:
            value = value.reshape((1,) * grn_axes + (-1,))
        values[name] = value
    return values


# The authors' names, which mmpretrain's differ from in three words.
_FROM_OFFICIAL: tuple[Rule, ...] = (
    (r'^downsample_layers\.0\.', 'stem.'),
    (r'^downsample_layers\.(\d)\.', r'stages.\1.downsample.'),
    (r'^stages\.(\d)\.(\d+)\.', r'stages.\1.blocks.\2.'),
    (r'\.(dwconv|depthwise_conv)\.', '.conv_dw.'),
    (r'\.(pwconv|pointwise_conv)(\d)\.', r'.mlp.fc\2.'),
    (r'\.grn\.gamma$', '.mlp.grn.weight'),
    (r'\.grn\.beta$', '.mlp.grn.bias'),
    (r'^norm\.', 'head.norm.'),
    (r'^head\.(weight|bias)$', r'head.fc.\1'),
)
_TO_OFFICIAL: tuple[Rule, ...] = (
    (r'^stem\.', 'downsample_layers.0.'),
    (r'^stages\.(\d)\.downsample\.', r'downsample_layers.\1.'),
    (r'\.blocks\.', '.'),
    (r'\.mlp\.grn\.weight$', '.grn.gamma'),
    (r'\.mlp\.grn\.bias$', '.grn.beta'),
    (r'^head\.norm\.', 'norm.'),
    (r'^head\.fc\.', 'head.'),
)
_FROM_TRANSFORMERS: tuple[Rule, ...] = (
    (r'^(model\.)?(convnext(v2)?\.)?', ''),
    (r'^embeddings\.patch_embeddings\.', 'stem.0.'),
    (r'^embeddings\.layernorm\.', 'stem.1.'),
    (r'^encoder\.stages\.', 'stages.'),
    (r'\.downsampling_layer\.', '.downsample.'),
    (r'^(stages\.\d\.)layers\.', r'\1blocks.'),
    (r'(\.blocks\.\d+\.)layernorm\.', r'\1norm.'),
    (r'\.dwconv\.', '.conv_dw.'),
    (r'\.pwconv(\d)\.', r'.mlp.fc\1.'),
    (r'\.grn\.', '.mlp.grn.'),
    (r'\.layer_scale_parameter$', '.gamma'),
    (r'^layernorm\.', 'head.norm.'),
    (r'^classifier\.', 'head.fc.'),
    (
        r'^hidden_states_norms\.stage(\d)\.',
        lambda found: f'norm{int(found[1]) - 1}.',
    ),
)
_TO_TRANSFORMERS: tuple[Rule, ...] = (
    (r'^norm(\d)\.', lambda n: f'hidden_states_norms.stage{int(n[1]) + 1}.'),
    (r'^stem\.0\.', 'embeddings.patch_embeddings.'),
    (r'^stem\.1\.', 'embeddings.layernorm.'),
    (r'(\.blocks\.\d+\.)norm\.', r'\1layernorm.'),
    (r'\.downsample\.', '.downsampling_layer.'),
    (r'^(stages\.\d\.)blocks\.', r'\1layers.'),
    (r'^stages\.', 'encoder.stages.'),
    (r'\.conv_dw\.', '.dwconv.'),
    (r'\.mlp\.fc(\d)\.', r'.pwconv\1.'),
    (r'\.mlp\.grn\.', '.grn.'),
    (r'\.gamma$', '.layer_scale_parameter'),
    (r'^head\.norm\.', 'layernorm.'),
    (r'^head\.fc\.', 'classifier.'),
)
# Place of each layer in torchvision's block.
_TORCHVISION_BLOCK = {'0': 'conv_dw', '2': 'norm', '3': 'mlp.fc1'}
_TORCHVISION_BLOCK['5'] = 'mlp.fc2'
_TORCHVISION_PLACE = {name: n for n, name in _TORCHVISION_BLOCK.items()}


def from_official(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the authors' release (and a detector's or segmentor's norms)."""
    return _flat(substitute(state_dict, _FROM_OFFICIAL))


def to_official(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a ConvNeXt as the authors' release does."""
    rules = (
        *_TO_OFFICIAL,
        (r'\.conv_dw\.', '.dwconv.'),
        (r'\.mlp\.fc', '.pwconv'),
    )
    return substitute(_linear(state_dict, grn_axes=3), rules)


def to_mmpretrain(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a ConvNeXt as mmpretrain's backbone."""
    rules = (
        *_TO_OFFICIAL,
        (r'\.conv_dw\.', '.depthwise_conv.'),
        (r'\.mlp\.fc', '.pointwise_conv'),
    )
    return substitute(_linear(state_dict, grn_axes=0), rules)


def from_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename a ``ConvNextModel``, a ``ConvNextV2Model`` or one with a head."""
    return _flat(substitute(state_dict, _FROM_TRANSFORMERS))


def to_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a ConvNeXt as transformers' base model and backbone."""
    return substitute(_linear(state_dict, grn_axes=3), _TO_TRANSFORMERS)


def from_torchvision(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename torchvision's ConvNeXt: even ``features`` halve the map."""

    def part(found: re.Match) -> str:
        number = int(found[1])
        if number == 0:
            return 'stem.'
        if number % 2:
            return f'stages.{number // 2}.blocks.'
        return f'stages.{number // 2}.downsample.'

    rules = (
        (r'^features\.(\d)\.', part),
        (r'\.block\.(\d)\.', lambda n: f'.{_TORCHVISION_BLOCK[n[1]]}.'),
        (r'\.layer_scale$', '.gamma'),
        (r'^classifier\.0\.', 'head.norm.'),
        (r'^classifier\.2\.', 'head.fc.'),
    )
    return _flat(substitute(state_dict, rules))


def to_torchvision(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a ConvNeXt (there is no V2) as torchvision."""
    layers = '|'.join(map(re.escape, _TORCHVISION_PLACE))
    rules = (
        (
            rf'(?<=\d)\.({layers})\.',
            lambda n: f'.block.{_TORCHVISION_PLACE[n[1]]}.',
        ),
        (r'\.gamma$', '.layer_scale'),
        (r'^stem\.', 'features.0.'),
        (r'^stages\.(\d)\.downsample', lambda n: f'features.{2 * int(n[1])}'),
        (r'^stages\.(\d)\.blocks', lambda n: f'features.{2 * int(n[1]) + 1}'),
        (r'^head\.norm\.', 'classifier.0.'),
        (r'^head\.fc\.', 'classifier.2.'),
    )
    named = substitute(_linear(state_dict, grn_axes=0), rules)
    return {
        name: value[:, None, None] if name.endswith('.layer_scale') else value
        for name, value in named.items()
    }


STYLES = (
    KeyStyle('timm', _has('.blocks.', '.conv_dw.'), dict, dict),
    KeyStyle(
        'official',
        _has('downsample_layers.', '.dwconv.'),
        from_official,
        to_official,
    ),
    KeyStyle(
        'mmpretrain',
        _has('downsample_layers.', '.depthwise_conv.'),
        from_official,
        to_mmpretrain,
    ),
    KeyStyle(
        'transformers',
        _has('encoder.stages.', '.dwconv.'),
        from_transformers,
        to_transformers,
    ),
    KeyStyle(
        'torchvision',
        _has('features.', '.layer_scale'),
        from_torchvision,
        to_torchvision,
    ),
)
