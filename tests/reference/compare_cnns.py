"""Print how far the CNNs are from timm's and MONAI's, level by level.

Random weights, batch statistics and layer scales, float32, an image that is
not square. Run: python tests/reference/compare_cnns.py
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1]))
import conftest  # noqa: F401  (makes torchvision and timm importable)
import timm
from monai.networks.nets import DenseNet as MonaiDenseNet

from upernet_ext.interop.densenet import from_monai
from upernet_ext.models import ConvNeXt, DenseNet, EfficientNet

TENSORFLOW = dict(padding='same', norm_cfg=dict(type='BN', eps=1e-3))
NETWORKS = [
    ('convnext_tiny', ConvNeXt('convnext_tiny')),
    ('convnextv2_tiny', ConvNeXt('convnext_v2_tiny')),
    ('convnextv2_atto', ConvNeXt('convnext_v2_atto')),
    ('efficientnet_b0', EfficientNet('efficientnet_b0')),
    ('tf_efficientnet_b0', EfficientNet('efficientnet_b0', **TENSORFLOW)),
    ('efficientnet_lite0', EfficientNet('efficientnet_lite0')),
    (
        'tf_efficientnetv2_b0',
        EfficientNet('efficientnet_v2_b0', **TENSORFLOW),
    ),
    ('mobilenetv2_100', EfficientNet('mobilenetv2_100')),
    ('densenet121', DenseNet('densenet121')),
]


def randomise(net: nn.Module) -> nn.Module:
    """Fill every tensor, statistics included, with what keeps the scale."""
    for name, value in net.state_dict().items():
        if 'running_var' in name:
            value.uniform_(0.5, 2)
        elif value.is_floating_point():
            fan = value[0].numel() if value.ndim > 1 else 4
            value.normal_(std=fan**-0.5)
    return net.eval()


def show(name: str, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    """Print the largest difference over the level's deviation."""
    errors = [
        ((a - b).abs().max() / b.std()).item()
        for a, b in zip(ours, theirs, strict=True)
    ]
    print(f'{name:24}', ' '.join(f'{error:.1e}' for error in errors))


@torch.no_grad()
def main() -> None:
    """Compare every network."""
    torch.manual_seed(0)
    print('max |difference| / std of each level, finest first')
    x = torch.randn(1, 3, 96, 130)
    for name, ours in NETWORKS:
        theirs = randomise(timm.create_model(name, features_only=True))
        weights = theirs.state_dict()
        flat = {k: k.replace('.', '_', 1) for k in ours.state_dict()}
        ours.load_state_dict(
            {k: weights[k if k in weights else n] for k, n in flat.items()}
        )
        show(name, ours.eval()(x), theirs(x))
    theirs = randomise(MonaiDenseNet(3, 1, 2, block_config=(2, 2, 2, 2)))
    ours = DenseNet(block_layers=(2, 2, 2, 2), in_channels=1, spatial_dims=3)
    weights = from_monai(theirs.state_dict())
    ours.load_state_dict({k: weights[k] for k in ours.state_dict()})
    x = torch.randn(1, 1, 32, 40, 48)
    show(
        'DenseNet 3D (MONAI)',
        ours.eval()(x)[-1:],
        [theirs.features(x).relu()],
    )


if __name__ == '__main__':
    main()
