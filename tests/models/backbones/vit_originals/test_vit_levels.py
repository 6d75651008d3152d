"""The plain ViT equals the models that its weights were published for.

For each family a small model of transformers or timm with random weights is
loaded through the same door as published files, and every level compared, on
images that are not square. ``reference/compare_vit.py`` prints the numbers.
"""

from collections.abc import Callable
from functools import partial

import pytest
import torch

from upernet_ext.interop import Receipt
from upernet_ext.interop.pretrained import load_backbone

from .conftest import IMAGE, TOLERANCE, timm_pair, transformers_pair

CASES: dict[str, Callable] = {
    **{
        f'{preset}, transformers': partial(transformers_pair, preset)
        for preset in (
            *('dinov2-b', 'dinov2-g', 'dinov2-reg-b', 'dinov2-reg-g'),
            *('dinov3-b', 'dinov3-h+', 'dinov3-7b', 'augreg-b', 'mae-b'),
            *('retfound-mae-l', 'retfound-dinov2-l', 'visionfm-b'),
            *('beit-b', 'beitv2-l'),
        )
    },
    'beit-b shared, transformers': partial(
        transformers_pair, 'beit-b', shared=True
    ),
    **{
        f'{preset}, timm': partial(timm_pair, preset)
        for preset in (
            *('augreg-b', 'deit-s', 'mae-b', 'dinov2-b', 'dinov2-g'),
            *('dinov3-b', 'dinov3-s+', 'dinov3-7b', 'beit-b', 'eva02-b'),
        )
    },
}


@torch.no_grad()
def differences(case: str) -> tuple[Receipt, list[float]]:
    """Load and compare: of each level max |difference| / its std."""
    ours, theirs, levels = CASES[case]()
    receipt = load_backbone(ours, theirs.state_dict(), source=case)
    image = torch.randn(2, 3, *IMAGE)
    return receipt, [
        ((found - wanted).abs().max() / wanted.std()).item()
        for found, wanted in zip(ours(image), levels(image), strict=True)
    ]


@pytest.mark.needs_torchvision
@pytest.mark.parametrize('case', CASES)
def test_every_level_equals_the_original(case: str) -> None:
    receipt, found = differences(case)
    assert len(found) == 4
    assert max(found) <= TOLERANCE, found
    # nothing was resampled or set: the original's own tensors, all of them
    assert not receipt.changes
    assert not receipt.missing
