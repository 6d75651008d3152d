"""Names of the EfficientNets and MobileNetV2, to timm's, ours, and back.

Sources: torchvision/models/efficientnet.py and mobilenetv2.py,
mmseg/models/backbones/mobilenet_v2.py, and transformers'
modeling_efficientnet.py and modeling_mobilenet_v2.py. The libraries number
and name the same convolutions differently; so the network's structure is read
from a file's names, and says where each library has each module.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from torch import Tensor

from .key_style import KeyStyle, StateDict
from .rename import rename_modules

# Inverted residual blocks a stage of MobileNetV2 (paper table 2).
_MOBILENET_V2 = (1, 2, 3, 4, 3, 3, 1)
# timm's names of the convolutions of each kind of block, in order.
_CONVS = {
    'cn': ('conv',),
    'ds': ('conv_dw', 'conv_pw'),
    'er': ('conv_exp', 'conv_pwl'),
    'ir': ('conv_pw', 'conv_dw', 'conv_pwl'),
}
_FIRST = {names[0]: kind for kind, names in _CONVS.items()}


class _Block(NamedTuple):
    stage: int
    index: int  # in the stage
    kind: str  # a key of _CONVS
    se: bool  # has a squeeze and excitation, before the last convolution


Structure = Sequence[_Block]
# timm's path of a module -> the library's.
Modules = dict[str, str]


def _kind(weights: Sequence[Tensor]) -> str:
    """Tell the kind of a block from its convolutions' weights."""
    if len(weights) == 2:
        return 'ds' if weights[0].shape[1] == 1 else 'er'
    return 'cn' if len(weights) == 1 else 'ir'


def _timm_structure(state_dict: StateDict) -> Structure:
    blocks = {}
    for name in state_dict:
        found = re.match(r'blocks\.(\d+)\.(\d+)\.(conv\w*)\.weight$', name)
        if found and (int(found[1]), int(found[2])) not in blocks:
            se = f'blocks.{found[1]}.{found[2]}.se.conv_reduce.weight'
            blocks[int(found[1]), int(found[2])] = (
                _FIRST[found[3]],
                se in state_dict,
            )
    return [_Block(*place, *what) for place, what in blocks.items()]


def _modules(
    structure: Structure,
    convs: Callable[[int, _Block], Iterator[tuple[str, str]]],
    squeeze: Callable[[int, _Block], tuple[str, str]] | None,
    ends: Modules,
) -> Modules:
    """Map the modules of all blocks.

    Args:
        structure: The blocks.
        convs: Number and block -> paths of each convolution and its norm.
        squeeze: The same, of the squeeze's two convolutions.
        ends: The modules outside the blocks.
    """
    modules = dict(ends)
    for number, block in enumerate(structure):
        path = f'blocks.{block.stage}.{block.index}'
        pairs = zip(_CONVS[block.kind], convs(number, block), strict=True)
        for i, (name, (conv, norm)) in enumerate(pairs, 1):
            modules[f'{path}.{name}'] = conv
            modules[f'{path}.bn{i}'] = norm
        if block.se:
            reduce, expand = squeeze(number, block)
            modules[f'{path}.se.conv_reduce'] = reduce
            modules[f'{path}.se.conv_expand'] = expand
    return modules


def _ends(stem: str, stem_norm: str, head: str, head_norm: str) -> Modules:
    return {
        'conv_stem': stem,
        'bn1': stem_norm,
        'conv_head': head,
        'bn2': head_norm,
    }


def _from(state_dict: StateDict, modules: Modules) -> dict[str, Tensor]:
    return rename_modules(state_dict, {b: a for a, b in modules.items()})


def _mobilenet_v2_blocks() -> Structure:
    return [
        _Block(stage, i, 'ir' if stage else 'ds', False)
        for stage, blocks in enumerate(_MOBILENET_V2)
        for i in range(blocks)
    ]


# torchvision -----------------------------------------------------------------


def _torchvision_structure(state_dict: StateDict) -> Structure:
    pattern = re.compile(r'features\.(\d+)\.(\d+)\.block\.(\d+)\.(0|fc1)\.w')
    parts = [(pattern.match(name), v) for name, v in state_dict.items()]
    places = groupby(
        ((found, v) for found, v in parts if found),
        key=lambda part: (int(part[0][1]) - 1, int(part[0][2])),
    )
    structure = []
    for place, members in places:
        members = list(members)
        convs = [v for found, v in members if found[4] == '0']
        structure.append(
            _Block(*place, _kind(convs), len(members) > len(convs))
        )
    return structure


def _torchvision(structure: Structure) -> Modules:
    def path(block: _Block) -> str:
        return f'features.{block.stage + 1}.{block.index}.block'

    def convs(_: int, block: _Block) -> Iterator[tuple[str, str]]:
        last = len(_CONVS[block.kind]) - 1
        for i in range(last + 1):
            place = i + (block.se and i == last)
            yield f'{path(block)}.{place}.0', f'{path(block)}.{place}.1'

    def squeeze(_: int, block: _Block) -> tuple[str, str]:
        inside = f'{path(block)}.{len(_CONVS[block.kind]) - 1}'
        return f'{inside}.fc1', f'{inside}.fc2'

    head = f'features.{1 + len({block.stage for block in structure})}'
    ends = _ends('features.0.0', 'features.0.1', f'{head}.0', f'{head}.1')
    return _modules(structure, convs, squeeze, ends)


def _torchvision_mobilenet(structure: Structure) -> Modules:
    def convs(number: int, block: _Block) -> Iterator[tuple[str, str]]:
        path, last = f'features.{number + 1}.conv', len(_CONVS[block.kind]) - 1
        for i in range(last):
            yield f'{path}.{i}.0', f'{path}.{i}.1'
        yield f'{path}.{last}', f'{path}.{last + 1}'

    head = f'features.{1 + len(structure)}'
    ends = _ends('features.0.0', 'features.0.1', f'{head}.0', f'{head}.1')
    return _modules(structure, convs, None, ends)


def _is_mobilenet_v2(structure: Structure) -> bool:
    blocks = _mobilenet_v2_blocks()
    return list(structure) == blocks[: len(structure)]


def from_torchvision(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename torchvision's EfficientNet, V1 or V2, or MobileNetV2."""
    if any('.block.' in name for name in state_dict):
        structure = _torchvision_structure(state_dict)
        return _from(state_dict, _torchvision(structure))
    return _from(state_dict, _torchvision_mobilenet(_mobilenet_v2_blocks()))


def to_torchvision(state_dict: StateDict) -> dict[str, Tensor]:
    """Name an EfficientNet, V1 or V2, or a MobileNetV2 as torchvision.

    Raises:
        ValueError: A network that torchvision lacks.
    """
    structure = _timm_structure(state_dict)
    if _is_mobilenet_v2(structure):
        return rename_modules(state_dict, _torchvision_mobilenet(structure))
    if not any(block.se for block in structure):
        raise ValueError(
            'torchvision has EfficientNet B0-B7 and V2 and MobileNetV2, but '
            f'no network with {len(structure)} blocks without squeeze'
        )
    return rename_modules(state_dict, _torchvision(structure))


# mmsegmentation and mmpretrain ----------------------------------------------


def _openmmlab(structure: Structure) -> Modules:
    def convs(_: int, block: _Block) -> Iterator[tuple[str, str]]:
        path = f'layer{block.stage + 1}.{block.index}.conv'
        for i in range(len(_CONVS[block.kind])):
            yield f'{path}.{i}.conv', f'{path}.{i}.bn'

    ends = _ends('conv1.conv', 'conv1.bn', 'conv2.conv', 'conv2.bn')
    return _modules(structure, convs, None, ends)


def from_openmmlab(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename mmseg's or mmpretrain's MobileNetV2."""
    return _from(state_dict, _openmmlab(_mobilenet_v2_blocks()))


def to_openmmlab(state_dict: StateDict) -> dict[str, Tensor]:
    """Name a MobileNetV2 as mmseg and mmpretrain.

    Raises:
        ValueError: Another network.
    """
    structure = _timm_structure(state_dict)
    if not _is_mobilenet_v2(structure):
        raise ValueError('only MobileNetV2 can be named as mmseg names it')
    return rename_modules(state_dict, _openmmlab(structure))


# transformers ----------------------------------------------------------------


def _transformers_structure(state_dict: StateDict) -> Structure:
    """Count stages by the channels that go out, which differ in a row."""
    structure, stage, index, before = [], -1, 0, None
    for number in range(len(state_dict)):
        path = f'encoder.blocks.{number}'
        last = state_dict.get(f'{path}.projection.project_conv.weight')
        if last is None:
            break
        if len(last) != before:
            stage, index, before = stage + 1, 0, len(last)
        expands = f'{path}.expansion.expand_conv.weight' in state_dict
        structure.append(_Block(stage, index, 'ir' if expands else 'ds', True))
        index += 1
    return structure


def _transformers(structure: Structure) -> Modules:
    layers = (
        ('expansion.expand_conv', 'expansion.expand_bn'),
        ('depthwise_conv.depthwise_conv', 'depthwise_conv.depthwise_norm'),
        ('projection.project_conv', 'projection.project_bn'),
    )

    def convs(number: int, block: _Block) -> Iterator[tuple[str, str]]:
        path = f'encoder.blocks.{number}'
        for conv, norm in layers[-len(_CONVS[block.kind]) :]:
            yield f'{path}.{conv}', f'{path}.{norm}'

    def squeeze(number: int, _: _Block) -> tuple[str, str]:
        path = f'encoder.blocks.{number}.squeeze_excite'
        return f'{path}.reduce', f'{path}.expand'

    ends = _ends(
        'embeddings.convolution',
        'embeddings.batchnorm',
        'encoder.top_conv',
        'encoder.top_bn',
    )
    return _modules(structure, convs, squeeze, ends)


def _transformers_mobilenet(structure: Structure) -> Modules:
    def convs(number: int, block: _Block) -> Iterator[tuple[str, str]]:
        # The stem holds the block without expansion.
        path = f'layer.{number - 1}' if number else 'conv_stem'
        names = ('expand_1x1', 'conv_3x3', 'reduce_1x1')
        for name in names[-len(_CONVS[block.kind]) :]:
            yield f'{path}.{name}.convolution', f'{path}.{name}.normalization'

    ends = _ends(
        'conv_stem.first_conv.convolution',
        'conv_stem.first_conv.normalization',
        'conv_1x1.convolution',
        'conv_1x1.normalization',
    )
    return _modules(structure, convs, None, ends)


def from_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename an ``EfficientNetModel`` or ``MobileNetV2Model``, or with head.

    transformers pads as TensorFlow and has eps 1e-3: build the network with
    ``padding='same'`` and ``norm_cfg=dict(type='BN', eps=1e-3)``.
    """
    bare = {
        re.sub(r'^(efficientnet|mobilenet_v2)\.', '', name): value
        for name, value in state_dict.items()
    }
    if any(name.startswith('encoder.blocks.') for name in bare):
        return _from(bare, _transformers(_transformers_structure(bare)))
    return _from(bare, _transformers_mobilenet(_mobilenet_v2_blocks()))


def to_transformers(state_dict: StateDict) -> dict[str, Tensor]:
    """Name an EfficientNet or a MobileNetV2 as transformers' base model.

    Raises:
        ValueError: A network that transformers lacks.
    """
    structure = _timm_structure(state_dict)
    if _is_mobilenet_v2(structure):
        return rename_modules(state_dict, _transformers_mobilenet(structure))
    if not all(block.se for block in structure):
        raise ValueError(
            'transformers has EfficientNet B0-B8 and MobileNetV2 only; this '
            'network has blocks without squeeze'
        )
    return rename_modules(state_dict, _transformers(structure))


def _any(pattern: str) -> Callable:
    return lambda names: any(re.match(pattern, name) for name in names)


STYLES = (
    KeyStyle('timm', _any(r'blocks\.\d+\.\d+\.conv'), dict, dict),
    KeyStyle(
        'torchvision',
        _any(r'features\.\d+\.(\d+\.block|conv)\.'),
        from_torchvision,
        to_torchvision,
    ),
    KeyStyle(
        'mmseg',
        _any(r'layer\d\.\d\.conv\.\d\.conv\.'),
        from_openmmlab,
        to_openmmlab,
    ),
    KeyStyle(
        'transformers',
        _any(r'((efficientnet|mobilenet_v2)\.)?(encoder\.blocks|layer)\.\d'),
        from_transformers,
        to_transformers,
    ),
)
