"""torchvision's names."""

from collections.abc import Mapping

from torch import Tensor

from .key_style import KeyStyle

# Inverted residual blocks a stage of MobileNetV2 (paper table 2), the same
# count in torchvision's ``features`` and in mmseg's ``layer1`` ... ``layer7``.
_MOBILENET_V2_BLOCKS = (1, 2, 3, 4, 3, 3, 1)


def from_mobilenet_v2(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision's MobileNetV2 to mmseg's and mmpretrain's.

    ``features.0`` is the stem, ``features.1`` to ``features.17`` the blocks,
    ``features.18`` the last convolution. Inside a block torchvision counts
    (expand), depthwise, project, norm; mmseg names them ``conv0`` ...
    Keys outside ``features`` (the classifier) keep their names.

    Source: torchvision/models/mobilenetv2.py and
    mmseg/models/backbones/mobilenet_v2.py.
    """
    stages = [
        f'layer{stage}.{block}'
        for stage, blocks in enumerate(_MOBILENET_V2_BLOCKS, 1)
        for block in range(blocks)
    ]
    half = {'0': 'conv', '1': 'bn'}
    renamed = {}
    for name, value in state_dict.items():
        parts = name.split('.')
        if parts[0] != 'features':
            renamed[name] = value
            continue
        index = int(parts[1])
        if index in (0, len(stages) + 1):
            module = 'conv1' if index == 0 else 'conv2'
            new = [module, half[parts[2]], *parts[3:]]
        else:
            # The first block has no expansion: two convolutions, not three.
            convs = 2 if index == 1 else 3
            step = int(parts[3])
            if step < convs - 1:
                new = [f'conv.{step}', half[parts[4]], *parts[5:]]
            else:
                new = [f'conv.{convs - 1}', half[str(step - convs + 1)]]
                new += parts[4:]
            new.insert(0, stages[index - 1])
        renamed['.'.join(new)] = value
    return renamed


_MOBILENET_V2 = (
    KeyStyle(
        'torchvision',
        lambda names: any(n.startswith('features.0.0.') for n in names),
        from_mobilenet_v2,
    ),
)
STYLES = {
    'mmseg.MobileNetV2': _MOBILENET_V2,
    'mmpretrain.MobileNetV2': _MOBILENET_V2,
}
