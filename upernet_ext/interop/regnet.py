"""Names of RegNet, to timm's, which are ours, and back.

Sources: timm/models/regnet.py, torchvision/models/regnet.py,
mmpretrain/models/backbones/regnet.py (RegNetX only) and transformers'
modeling_regnet.py.
"""

import re
from collections.abc import Callable, Collection

from torch import Tensor

from .key_style import KeyStyle, StateDict
from .rename import Rule, substitute

_TORCHVISION_LAYERS = {'a': 'conv1', 'b': 'conv2', 'c': 'conv3'}
_TORCHVISION_NAMES = {n: letter for letter, n in _TORCHVISION_LAYERS.items()}
_HALVES = {'0': 'conv', '1': 'bn'}
_PLACES = {half: place for place, half in _HALVES.items()}

_FROM_TORCHVISION: tuple[Rule, ...] = (
    (
        r'^trunk_output\.block\d\.block(\d)-(\d+)\.',
        lambda n: f's{n[1]}.b{int(n[2]) + 1}.',
    ),
    (r'^stem\.([01])\.', lambda n: f'stem.{_HALVES[n[1]]}.'),
    (r'\.proj\.([01])\.', lambda n: f'.downsample.{_HALVES[n[1]]}.'),
    (
        r'\.f\.([abc])\.([01])\.',
        lambda n: f'.{_TORCHVISION_LAYERS[n[1]]}.{_HALVES[n[2]]}.',
    ),
    (r'\.f\.se\.', '.se.'),
    (r'^fc\.', 'head.fc.'),
)
_TO_TORCHVISION: tuple[Rule, ...] = (
    (
        r'\.(conv[123])\.(conv|bn)\.',
        lambda n: f'.f.{_TORCHVISION_NAMES[n[1]]}.{_PLACES[n[2]]}.',
    ),
    (r'\.se\.', '.f.se.'),
    (r'\.downsample\.(conv|bn)\.', lambda n: f'.proj.{_PLACES[n[1]]}.'),
    (r'^stem\.(conv|bn)\.', lambda n: f'stem.{_PLACES[n[1]]}.'),
    (
        r'^s(\d)\.b(\d+)\.',
        lambda n: f'trunk_output.block{n[1]}.block{n[1]}-{int(n[2]) - 1}.',
    ),
    (r'^head\.fc\.', 'fc.'),
)
_FROM_MMPRETRAIN: tuple[Rule, ...] = (
    (r'^conv1\.', 'stem.conv.'),
    (r'^bn1\.', 'stem.bn.'),
    (r'\.downsample\.([01])\.', lambda n: f'.downsample.{_HALVES[n[1]]}.'),
    (r'\.(conv|bn)(\d)\.', r'.conv\2.\1.'),
    (r'^layer(\d)\.(\d+)\.', lambda n: f's{n[1]}.b{int(n[2]) + 1}.'),
)
_TO_MMPRETRAIN: tuple[Rule, ...] = (
    (r'\.conv(\d)\.(conv|bn)\.', r'.\2\1.'),
    (r'\.downsample\.(conv|bn)\.', lambda n: f'.downsample.{_PLACES[n[1]]}.'),
    (r'^stem\.(conv|bn)\.', r'\g<1>1.'),
    (r'^s(\d)\.b(\d+)\.', lambda n: f'layer{n[1]}.{int(n[2]) - 1}.'),
)
_FROM_TRANSFORMERS: tuple[Rule, ...] = (
    (r'^regnet\.', ''),
    (r'\.convolution\.', '.conv.'),
    (r'\.normalization\.', '.bn.'),
    (r'^embedder\.embedder\.', 'stem.'),
    (
        r'^encoder\.stages\.(\d)\.layers\.(\d+)\.',
        lambda n: f's{int(n[1]) + 1}.b{int(n[2]) + 1}.',
    ),
    (r'\.shortcut\.', '.downsample.'),
    (r'\.layer\.2\.attention\.0\.', '.se.fc1.'),
    (r'\.layer\.2\.attention\.2\.', '.se.fc2.'),
    (r'\.layer\.([01])\.', lambda n: f'.conv{int(n[1]) + 1}.'),
    # The third convolution is the third layer of X and the fourth of Y.
    (r'\.layer\.[23]\.', '.conv3.'),
    (r'^classifier\.1\.', 'head.fc.'),
)


def from_torchvision(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename torchvision's RegNet."""
    return substitute(state_dict, _FROM_TORCHVISION)


def to_torchvision(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a RegNet as torchvision."""
    return substitute(state_dict, _TO_TORCHVISION)


def from_mmpretrain(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename mmpretrain's RegNet."""
    return substitute(state_dict, _FROM_MMPRETRAIN)


def to_mmpretrain(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a RegNetX as mmpretrain.

    Raises:
        ValueError: It is a RegNetY, which mmpretrain has not.
    """
    if _squeezes(state_dict):
        raise ValueError(
            'mmpretrain has RegNetX only, but the state dict is that of a '
            "RegNetY: it has names with '.se.'"
        )
    return substitute(state_dict, _TO_MMPRETRAIN)


def from_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename a ``RegNetModel``, or one with a classifier."""
    return substitute(state_dict, _FROM_TRANSFORMERS)


def to_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a RegNet as transformers' base model."""
    third = 3 if _squeezes(state_dict) else 2
    rules = (
        (r'\.conv3\.', f'.layer.{third}.'),
        (r'(?<=\d)\.conv([12])\.', lambda n: f'.layer.{int(n[1]) - 1}.'),
        (r'\.se\.fc1\.', '.layer.2.attention.0.'),
        (r'\.se\.fc2\.', '.layer.2.attention.2.'),
        (r'\.downsample\.', '.shortcut.'),
        (
            r'^s(\d)\.b(\d+)\.',
            lambda n: (
                f'encoder.stages.{int(n[1]) - 1}.layers.{int(n[2]) - 1}.'
            ),
        ),
        (r'^stem\.', 'embedder.embedder.'),
        (r'\.conv\.', '.convolution.'),
        (r'\.bn\.', '.normalization.'),
        (r'^head\.fc\.', 'classifier.1.'),
    )
    return substitute(state_dict, rules)


def _squeezes(names: Collection[str]) -> bool:
    return any('.se.' in name for name in names)


def _has(pattern: str) -> Callable[[Collection[str]], bool]:
    return lambda names: any(re.search(pattern, name) for name in names)


STYLES = (
    KeyStyle('timm', _has(r'^s1\.b1\.conv1\.conv\.'), dict, dict),
    KeyStyle(
        'torchvision',
        _has(r'^trunk_output\.block1\.block1-0\.'),
        from_torchvision,
        to_torchvision,
    ),
    KeyStyle(
        'mmpretrain',
        _has(r'^layer1\.0\.conv1\.'),
        from_mmpretrain,
        to_mmpretrain,
    ),
    KeyStyle(
        'transformers',
        _has(r'(^|\.)embedder\.embedder\.convolution\.'),
        from_transformers,
        to_transformers,
    ),
)
