"""Names of DenseNet, to torchvision's, which are timm's and ours, and back.

Sources: torchvision/models/densenet.py (its files were written by a version
that said ``norm.1`` for ``norm1``), monai/networks/nets/densenet.py and
mmpretrain/models/backbones/densenet.py.
"""

from collections.abc import Collection

from torch import Tensor

from .key_style import KeyStyle, StateDict
from .rename import Rule, substitute

_FROM_MMPRETRAIN: tuple[Rule, ...] = (
    (r'^stem\.0\.', 'features.conv0.'),
    (r'^stem\.1\.', 'features.norm0.'),
    (r'^transitions\.\d\.0\.', 'features.norm5.'),
    (r'^transitions\.(\d)', lambda n: f'features.transition{int(n[1]) + 1}'),
    (
        r'^stages\.(\d)\.block\.(\d+)',
        lambda n: (
            f'features.denseblock{int(n[1]) + 1}.denselayer{int(n[2]) + 1}'
        ),
    ),
)


def from_torchvision(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename torchvision's published files."""
    rules = ((r'(denselayer\d+\.(?:norm|conv))\.(\d)\.', r'\1\2.'),)
    return substitute(state_dict, rules)


def to_torchvision(state_dict: StateDict) -> dict[str, Tensor]:
    """Keep the names, which are those of torchvision's model."""
    return dict(state_dict)


def from_monai(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename MONAI's DenseNet, of any rank."""
    rules = (
        (r'\.layers\.', '.'),
        (r'^class_layers\.out\.', 'classifier.'),
    )
    return substitute(state_dict, rules)


def to_monai(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a DenseNet as MONAI."""
    rules = (
        (r'(denselayer\d+)\.', r'\1.layers.'),
        (r'^classifier\.', 'class_layers.out.'),
    )
    return substitute(state_dict, rules)


def from_mmpretrain(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename mmpretrain's DenseNet."""
    return substitute(state_dict, _FROM_MMPRETRAIN)


def to_mmpretrain(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a DenseNet of four blocks as mmpretrain."""
    rules = (
        (r'^features\.conv0\.', 'stem.0.'),
        (r'^features\.norm0\.', 'stem.1.'),
        (r'^features\.norm5\.', 'transitions.3.0.'),
        (
            r'^features\.transition(\d)',
            lambda n: f'transitions.{int(n[1]) - 1}',
        ),
        (
            r'^features\.denseblock(\d)\.denselayer(\d+)',
            lambda n: f'stages.{int(n[1]) - 1}.block.{int(n[2]) - 1}',
        ),
    )
    return substitute(state_dict, rules)


def _starts(names: Collection[str], prefix: str, part: str) -> bool:
    return any(n.startswith(prefix) and part in n for n in names)


STYLES = (
    KeyStyle(
        'timm',
        lambda names: _starts(names, 'features.', 'layer1.norm1.'),
        dict,
        dict,
    ),
    KeyStyle(
        'torchvision',
        lambda names: _starts(names, 'features.', '.norm.1.'),
        from_torchvision,
        to_torchvision,
    ),
    KeyStyle(
        'monai',
        lambda names: _starts(names, 'features.', '.layers.'),
        from_monai,
        to_monai,
    ),
    KeyStyle(
        'mmpretrain',
        lambda names: _starts(names, 'stages.', '.block.'),
        from_mmpretrain,
        to_mmpretrain,
    ),
)
