"""Print how far both heads are from medicai's, with copied weights.

Run:    python tests/reference/compare_medicai.py
        (in the environment of `make test`)
"""

import sys
from pathlib import Path

import torch

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / 'models')]

import conftest  # noqa: E402, F401  (makes Keras and medicai importable)
import test_parity_medicai as parity  # noqa: E402


def main() -> None:
    """Print a row a case and rank: on probabilities, at the image's size."""
    print('max |difference|   std of theirs   case')
    for spatial_dims in (2, 3):
        for case, (architecture, encoder, options) in parity.CASES.items():
            torch.manual_seed(0)
            pair = parity.both(architecture, encoder, spatial_dims, **options)
            largest, spread = parity.difference(*pair)
            print(
                f'{largest:16.1e}   {spread:13.3f}   {case}, {spatial_dims}D'
            )


if __name__ == '__main__':
    main()
