"""Print how far the plain ViT is from transformers' and timm's own models.

Run:    python tests/reference/compare_vit.py [part of a case's name]
        (in the environment of `make test`)
"""

import argparse
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / 'models' / 'backbones')]

import conftest  # noqa: E402, F401  (makes timm importable)
from vit_originals import test_vit_levels as originals  # noqa: E402


def main() -> None:
    """Print a row a case: small models, random weights, every level."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('case', nargs='?', default='')
    wanted = parser.parse_args().case
    print('max |difference| / std, four levels    names of the file     case')
    for case in originals.CASES:
        if wanted in case:
            torch.manual_seed(0)
            receipt, found = originals.differences(case)
            numbers = '  '.join(f'{value:.1e}' for value in found)
            print(f'{numbers:34}     {receipt.style or "ours":20}  {case}')


if __name__ == '__main__':
    main()
