"""Hard pixels in slabs: mmseg's, without full-size logits."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.structures import OHEMPixelSampler
from torch.nn import functional as F  # noqa: N812

from upernet_ext.models import CrossEntropyLoss, DiceLoss
from upernet_ext.models.losses import hard_pixels, slabs

from .conftest import IGNORED, head_and_samples, problems, upsample


@settings(max_examples=60, deadline=None)
@given(
    problems(),
    st.sampled_from([0.05, 0.3, 0.7, 1.0]),
    st.sampled_from([2, 10, 10**5]),
)
def test_hard_pixels_are_mmsegs(p, threshold: float, min_kept: int) -> None:
    if len(p.size) == 3:  # mmseg's sampler takes images
        return
    context = SimpleNamespace(ignore_index=IGNORED)
    sampler = OHEMPixelSampler(context, thresh=threshold, min_kept=min_kept)
    full = upsample(p.logits, p.size, p.align_corners)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, 'SLAB_BYTES_CPU', p.budget)
        found = hard_pixels(
            [CrossEntropyLoss()],
            p.logits,
            p.labels,
            threshold=threshold,
            min_kept=min_kept,
            ignore_index=IGNORED,
            align_corners=p.align_corners,
        )
    expected = sampler.sample(full, p.labels[:, None])
    # Equal scores, as behind a clamped border, may differ by a rounding.
    counts = p.labels != IGNORED
    scores = full.softmax(1).gather(1, p.labels.where(counts, 0)[:, None])[
        :, 0
    ]
    ranked = scores[counts].sort().values
    if len(ranked) == 0:
        assert found.sum() == 0
        return
    last = ranked[min(min_kept * len(full), len(ranked) - 1)]
    clear = (scores - last.clamp(min=threshold)).abs() > 1e-12
    assert torch.equal(found[clear], expected[clear])


@pytest.mark.parametrize('spatial_dims', [2, 3])
def test_without_threshold_the_largest_losses_are_hard(spatial_dims) -> None:
    logits = torch.randn(2, 3, *[4] * spatial_dims)
    labels = torch.randint(3, (2, *[8] * spatial_dims))
    labels[:, 0] = IGNORED
    factor = [1.0, 5.0, 0.2]
    found = hard_pixels(
        [CrossEntropyLoss(class_weight=factor)],
        logits,
        labels,
        threshold=None,
        min_kept=5,
        ignore_index=IGNORED,
        align_corners=False,
    )
    losses = F.cross_entropy(
        upsample(logits, labels.shape[1:], False),
        labels,
        torch.tensor(factor),
        ignore_index=IGNORED,
        reduction='none',
    )
    assert found.sum() == 10
    assert losses[found == 1].min() > losses[found == 0].max()


@pytest.mark.parametrize(
    ('loss', 'threshold', 'words'),
    [
        (CrossEntropyLoss(use_sigmoid=True), 0.7, 'softmax'),
        (DiceLoss(), None, 'set thresh'),
    ],
)
def test_hard_pixels_need_a_softmax_and_a_rank(loss, threshold, words) -> None:
    with pytest.raises(ValueError, match=words):
        hard_pixels(
            [loss],
            torch.randn(1, 2, 2, 2),
            torch.zeros(1, 4, 4, dtype=torch.long),
            threshold=threshold,
            min_kept=5,
            ignore_index=IGNORED,
            align_corners=False,
        )


@pytest.mark.filterwarnings('ignore:.*build_pixel_sampler')
def test_ohem_of_a_head_makes_no_full_logits() -> None:
    sampler = dict(type='mmseg.OHEMPixelSampler', thresh=0.4, min_kept=3)
    head, samples, labels = head_and_samples(sampler=sampler)
    logits = torch.randn(2, 3, 4, 4)
    full = upsample(logits, (9, 9), False)
    weight = head.sampler.sample(full, labels[:, None])
    assert 0 < weight.mean() < 0.7
    losses = F.cross_entropy(
        full, labels, ignore_index=IGNORED, reduction='none'
    )
    expected = (losses * weight).sum() / (labels != IGNORED).sum()
    head.sampler.sample = None  # mmseg's own is not asked
    found = head.loss_by_feat(logits, samples)['loss_ce']
    torch.testing.assert_close(found, expected)
