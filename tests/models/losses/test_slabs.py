"""Losses in slabs against their plain form: upsample it all, then compare."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.losses import DiceLoss as MonaiDiceLoss
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from upernet_ext.models import (
    CrossEntropyLoss,
    DiceCELoss,
    DiceLoss,
    FocalLoss,
)
from upernet_ext.models.losses import slabs

from .conftest import IGNORED, gradients, problems, upsample

close = torch.testing.assert_close
exact = partial(close, rtol=1e-12, atol=1e-12)


def assert_equals_plain(loss, plain, p: SimpleNamespace, equal=exact) -> None:
    def slabwise(logits: Tensor) -> Tensor:
        return loss(
            logits,
            p.labels,
            ignore_index=IGNORED,
            align_corners=p.align_corners,
            weight=p.weight,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slabs, 'SLAB_BYTES_CPU', p.budget)
        found = gradients(slabwise, p.logits)
        with torch.no_grad():
            equal(slabwise(p.logits), found[0])
    expected = gradients(
        lambda x: plain(upsample(x, p.size, p.align_corners)), p.logits
    )
    for mine, theirs in zip(found, expected, strict=True):
        equal(mine, theirs)


@settings(max_examples=80, deadline=None)
@given(problems(), st.sampled_from([0, 0.2]), st.booleans())
def test_cross_entropy(p, smoothing: float, average: bool) -> None:
    factor = p.class_weight and p.logits.new_tensor(p.class_weight)

    def plain(full: Tensor) -> Tensor:
        losses = F.cross_entropy(
            full,
            p.labels,
            factor,
            ignore_index=IGNORED,
            label_smoothing=smoothing,
            reduction='none',
        )
        counted = p.labels[p.labels != IGNORED]
        if factor is not None:
            count = factor[counted].sum()
        else:
            count = counted.numel() if average else p.labels.numel()
        weight = 1 if p.weight is None else p.weight
        return (losses * weight).sum() / max(count, 1e-12)

    loss = CrossEntropyLoss(
        class_weight=p.class_weight,
        label_smoothing=smoothing,
        avg_non_ignore=average,
    )
    assert_equals_plain(loss, plain, p)


@settings(max_examples=40, deadline=None)
@given(problems(regions=True), st.booleans())
def test_binary_cross_entropy(p, average: bool) -> None:
    factor = p.class_weight and p.logits.new_tensor(p.class_weight)

    def plain(full: Tensor) -> Tensor:
        mask = p.labels != IGNORED
        if factor is not None:
            factors = factor.view(-1, *[1] * len(p.size)).expand(full[0].shape)
            factors = factors.expand_as(full)[mask]
        losses = F.binary_cross_entropy_with_logits(
            full[mask],
            p.labels[mask].double(),
            pos_weight=None if factor is None else factors,
            reduction='none',
        )
        if p.weight is not None:
            losses = losses * p.weight[:, None].expand_as(full)[mask]
        count = mask.sum() if average else mask.numel()
        return losses.sum() / max(count, 1e-12)

    loss = CrossEntropyLoss(
        use_sigmoid=True, class_weight=p.class_weight, avg_non_ignore=average
    )
    assert_equals_plain(loss, plain, p)


@settings(max_examples=60, deadline=None)
@given(problems(), st.booleans(), st.booleans(), st.booleans())
def test_dice_and_cross_entropy(
    p, background: bool, per_batch: bool, alone: bool
) -> None:
    """MONAI's Dice of masked maps, and torch's cross entropy."""
    dice = MonaiDiceLoss(
        include_background=background,
        batch=per_batch,
        smooth_nr=1e-5,
        smooth_dr=1e-5,
    )

    def plain(full: Tensor) -> Tensor:
        mask = p.labels != IGNORED
        labels = p.labels.where(mask, 0)
        truth = F.one_hot(labels, full.shape[1]).movedim(-1, 1)
        weight = mask if p.weight is None else mask * p.weight
        value = dice(
            full.softmax(1) * weight[:, None], truth * weight[:, None]
        )
        if alone:
            return value
        losses = F.cross_entropy(full, labels, reduction='none') * weight
        return 0.7 * value + 0.3 * losses.sum() / max(mask.sum(), 1e-12)

    options = dict(include_background=background, batch=per_batch)
    loss = (
        DiceLoss(**options)
        if alone
        else DiceCELoss(**options, lambda_dice=0.7, lambda_ce=0.3)
    )
    assert_equals_plain(loss, plain, p)


@settings(max_examples=30, deadline=None)
@given(problems(regions=True), st.booleans())
def test_dice_and_cross_entropy_of_regions(p, per_batch: bool) -> None:
    dice = MonaiDiceLoss(batch=per_batch, smooth_nr=1e-5, smooth_dr=1e-5)

    def plain(full: Tensor) -> Tensor:
        mask = (p.labels != IGNORED).double()
        truth = p.labels.where(mask > 0, 0).double()
        weight = mask if p.weight is None else mask * p.weight[:, None]
        losses = F.binary_cross_entropy_with_logits(
            full, truth, weight=weight, reduction='none'
        )
        entropy = losses.sum() / mask.sum().clamp(min=1e-12)
        return dice(full.sigmoid() * weight, truth * weight) + entropy

    loss = DiceCELoss(use_sigmoid=True, batch=per_batch)
    assert_equals_plain(loss, plain, p)


@settings(max_examples=10, deadline=None)
@given(problems())
def test_focal(p) -> None:
    """Many slabs against one; MONAI's focal loss is of float32."""
    p.weight = None
    p.logits = p.logits.float()
    loss = FocalLoss()

    def plain(full: Tensor) -> Tensor:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(slabs, 'SLAB_BYTES_CPU', 2**30)
            return loss(full, p.labels, ignore_index=IGNORED)

    assert_equals_plain(loss, plain, p, close)
