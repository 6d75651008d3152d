"""Print how far the ResNets and RegNets are from timm's, level by level.

Random weights and batch statistics, float32, an image that is not square.
Run:    python tests/reference/compare_resnets.py
        (in the environment of `make test`)
"""

import sys
from pathlib import Path

import torch

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / 'models' / 'backbones')]

import conftest  # noqa: E402, F401  (makes timm importable)
import test_resnet as originals  # noqa: E402


@torch.no_grad()
def main() -> None:
    """Print a row a network and output stride."""
    print('max |difference| / std of each level, finest first')
    x = torch.randn(1, 3, 70, 100)
    for name in originals.PAIRS:
        for output_stride in (32, 16, 8):
            ours, theirs = originals.twins(name, output_stride)
            wanted = originals.timm_levels(theirs, x)
            errors = [
                ((a - b).abs().max() / b.std()).item()
                for a, b in zip(ours(x), wanted, strict=True)
            ]
            numbers = ' '.join(f'{error:.1e}' for error in errors)
            print(f'{name:16} /{output_stride:<4}{numbers}')


if __name__ == '__main__':
    main()
