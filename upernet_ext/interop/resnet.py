"""Names of the ResNets, to timm's, which are torchvision's, and back.

Sources: timm/models/resnet.py, mmpretrain/models/backbones/resnet.py and
seresnet.py, mmseg/models/utils/res_layer.py, and transformers'
modeling_resnet.py.

OpenMMLab's plain ResNets and ResNeXts of ``style='pytorch'`` have timm's
names; those of ``style='caffe'`` have them too, but stride elsewhere. A
dilated stage of its V1d does not average its shortcut, where timm does.
"""

from collections.abc import Collection

from torch import Tensor

from .key_style import KeyStyle, StateDict
from .rename import Rule, substitute

# mmseg's stem is one row of layers, mmpretrain's three of two.
_FROM_OPENMMLAB: tuple[Rule, ...] = (
    (r'^stem\.(2\.bn|7)\.', 'bn1.'),
    (r'^stem\.(\d)\.conv\.', lambda found: f'conv1.{3 * int(found[1])}.'),
    (r'^stem\.(\d)\.bn\.', lambda found: f'conv1.{3 * int(found[1]) + 1}.'),
    (r'^stem\.', 'conv1.'),
    (r'\.se_layer\.conv(\d)\.conv\.', r'.se.fc\1.'),
)
_TO_MMSEG: tuple[Rule, ...] = ((r'^conv1\.', 'stem.'), (r'^bn1\.', 'stem.7.'))
_TO_MMPRETRAIN: tuple[Rule, ...] = (
    (r'^bn1\.', 'stem.2.bn.'),
    (r'^conv1\.([036])\.', lambda found: f'stem.{int(found[1]) // 3}.conv.'),
    (r'^conv1\.([14])\.', lambda found: f'stem.{int(found[1]) // 3}.bn.'),
)
_FROM_TRANSFORMERS: tuple[Rule, ...] = (
    (r'^resnet\.', ''),
    (r'^embedder\.embedder\.convolution\.', 'conv1.'),
    (r'^embedder\.embedder\.normalization\.', 'bn1.'),
    (
        r'^encoder\.stages\.(\d)\.layers\.',
        lambda found: f'layer{int(found[1]) + 1}.',
    ),
    (r'\.shortcut\.convolution\.', '.downsample.0.'),
    (r'\.shortcut\.normalization\.', '.downsample.1.'),
    (
        r'\.layer\.(\d)\.convolution\.',
        lambda found: f'.conv{int(found[1]) + 1}.',
    ),
    (
        r'\.layer\.(\d)\.normalization\.',
        lambda found: f'.bn{int(found[1]) + 1}.',
    ),
    (r'^classifier\.1\.', 'fc.'),
)
_TO_TRANSFORMERS: tuple[Rule, ...] = (
    (r'\.downsample\.0\.', '.shortcut.convolution.'),
    (r'\.downsample\.1\.', '.shortcut.normalization.'),
    (
        r'\.conv(\d)\.',
        lambda found: f'.layer.{int(found[1]) - 1}.convolution.',
    ),
    (
        r'\.bn(\d)\.',
        lambda found: f'.layer.{int(found[1]) - 1}.normalization.',
    ),
    (
        r'^layer(\d)\.',
        lambda found: f'encoder.stages.{int(found[1]) - 1}.layers.',
    ),
    (r'^conv1\.', 'embedder.embedder.convolution.'),
    (r'^bn1\.', 'embedder.embedder.normalization.'),
    (r'^fc\.', 'classifier.1.'),
)


def _pools_shortcuts(names: Collection[str]) -> bool:
    """Tell V1d, in which a pooling precedes the shortcut's convolution."""
    return any('.downsample.2.' in name for name in names)


def from_openmmlab(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename a ResNetV1c, ResNetV1d or SE network of mmseg or mmpretrain."""
    rules = _FROM_OPENMMLAB
    # mmpretrain leaves the pooling out where it would do nothing.
    if (
        _pools_shortcuts(state_dict)
        and 'layer1.0.downsample.0.weight' in state_dict
    ):
        rules += (
            (r'^layer1\.0\.downsample\.1\.', 'layer1.0.downsample.2.'),
            (r'^layer1\.0\.downsample\.0\.', 'layer1.0.downsample.1.'),
        )
    return substitute(state_dict, rules)


def to_mmseg(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a ResNet, ResNeXt, vc or vd as mmseg.

    Raises:
        ValueError: It is an SE network, which mmseg has not.
    """
    _refuse_squeezes(state_dict, 'mmseg')
    deep = 'conv1.0.weight' in state_dict
    return substitute(state_dict, _TO_MMSEG if deep else ())


def to_mmpretrain(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a ResNet as mmpretrain, SEResNet and SEResNeXt included."""
    rules = ((r'\.se\.fc(\d)\.', r'.se_layer.conv\1.conv.'),)
    if 'conv1.0.weight' in state_dict:
        rules += _TO_MMPRETRAIN
    if _pools_shortcuts(state_dict):
        rules += (
            (r'^layer1\.0\.downsample\.1\.', 'layer1.0.downsample.0.'),
            (r'^layer1\.0\.downsample\.2\.', 'layer1.0.downsample.1.'),
        )
    return substitute(state_dict, rules)


def from_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename a ``ResNetModel``, or one with a classifier."""
    return substitute(state_dict, _FROM_TRANSFORMERS)


def to_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a plain ResNet as transformers' base model.

    Raises:
        ValueError: It has parts that transformers' ResNet has not.
    """
    _refuse_squeezes(state_dict, 'transformers')
    if 'conv1.0.weight' in state_dict:
        raise ValueError(
            'the ResNet of transformers has no deep stem, but the state dict '
            "has 'conv1.0.weight'; convert one that is neither vc nor vd"
        )
    return substitute(state_dict, _TO_TRANSFORMERS)


def _refuse_squeezes(names: Collection[str], library: str) -> None:
    if any('.se.' in name for name in names):
        raise ValueError(
            f'the ResNet of {library} has no squeezes, but the state dict '
            "has names with '.se.'; convert a plain network"
        )


def _is_mmseg(names: Collection[str]) -> bool:
    return 'stem.0.weight' in names and 'layer1.0.conv1.weight' in names


def _is_mmpretrain(names: Collection[str]) -> bool:
    return 'stem.0.conv.weight' in names or any(
        '.se_layer.' in name for name in names
    )


def _is_timm(names: Collection[str]) -> bool:
    return 'layer1.0.conv1.weight' in names and not (
        _is_mmseg(names) or _is_mmpretrain(names)
    )


def _is_transformers(names: Collection[str]) -> bool:
    return any('embedder.embedder.convolution.' in name for name in names)


STYLES = {
    'resnet': (
        KeyStyle('timm', _is_timm, dict, dict),
        KeyStyle('mmseg', _is_mmseg, from_openmmlab, to_mmseg),
        KeyStyle('mmpretrain', _is_mmpretrain, from_openmmlab, to_mmpretrain),
        KeyStyle(
            'transformers',
            _is_transformers,
            from_transformers,
            to_transformers,
        ),
    ),
    'resnetv2': (
        KeyStyle(
            'timm',
            lambda names: any(
                n.startswith('stages.0.blocks.0.norm3.') for n in names
            ),
            dict,
            dict,
        ),
    ),
}
