"""Dice and cross entropy against MONAI and against nnU-Net's definition."""

import pytest
import torch
from monai.losses import DiceCELoss as MonaiDiceCELoss
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from upernet_ext.models import DiceCELoss

both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])
with_and_without = pytest.mark.parametrize('ignored', [False, True])
SMOOTH = 1e-5


def batch(spatial_dims: int, ignored: bool) -> tuple[Tensor, Tensor]:
    size = [5, 6, 4][:spatial_dims]
    logits, labels = torch.randn(2, 3, *size), torch.randint(3, (2, *size))
    labels[1][labels[1] == 2] = 0  # one image has no class 2
    if ignored:
        labels[0, :2] = 255
    return logits, labels


def nnunet_dice(
    scores: Tensor, truth: Tensor, mask: Tensor, *, per_batch: bool
) -> Tensor:
    """nnU-Net's ``SoftDiceLoss``, from true and false positives."""
    axes = tuple(range(2, scores.ndim))
    if per_batch:
        axes = (0, *axes)
    right = (scores * truth * mask).sum(axes)
    invented = (scores * (1 - truth) * mask).sum(axes)
    missed = ((1 - scores) * truth * mask).sum(axes)
    top, bottom = 2 * right, 2 * right + invented + missed
    return -((top + SMOOTH) / (bottom + SMOOTH)).mean()


@both_ranks
@with_and_without
@pytest.mark.parametrize('per_batch', [False, True])
@pytest.mark.parametrize('background', [False, True])
def test_equals_nnunet(
    spatial_dims: int, ignored: bool, per_batch: bool, background: bool
) -> None:
    logits, labels = batch(spatial_dims, ignored)
    counts = (labels != 255)[:, None].float()
    truth = F.one_hot(labels.where(labels != 255, 0), 3).movedim(-1, 1)
    first = 0 if background else 1
    dice = nnunet_dice(
        logits.softmax(1)[:, first:],
        truth[:, first:].float(),
        counts,
        per_batch=per_batch,
    )
    entropy = F.cross_entropy(logits, labels, ignore_index=255)
    loss = DiceCELoss(batch=per_batch, include_background=background)
    torch.testing.assert_close(loss(logits, labels), 1 + dice + entropy)


@both_ranks
@with_and_without
@pytest.mark.parametrize('per_batch', [False, True])
def test_regions_equal_nnunet(
    spatial_dims: int, ignored: bool, per_batch: bool
) -> None:
    """Every region counts; binary cross entropy is a mean over what does."""
    logits, labels = batch(spatial_dims, ignored)
    regions = torch.stack([labels > 0, labels > 1, labels == 0], dim=1).long()
    counts = (labels != 255)[:, None].expand_as(regions)
    regions[~counts] = 255
    truth = regions.where(counts, 0).float()
    dice = nnunet_dice(
        logits.sigmoid(), truth, counts.float(), per_batch=per_batch
    )
    entropy = F.binary_cross_entropy_with_logits(logits[counts], truth[counts])
    loss = DiceCELoss(batch=per_batch, use_sigmoid=True)
    torch.testing.assert_close(loss(logits, regions), 1 + dice + entropy)


@both_ranks
@pytest.mark.parametrize('per_batch', [False, True])
@pytest.mark.parametrize('single', [False, True])
def test_equals_monai(
    spatial_dims: int, per_batch: bool, single: bool
) -> None:
    """Of several sigmoids MONAI's cross entropy stays that of a softmax."""
    logits, labels = batch(spatial_dims, ignored=False)
    truth = F.one_hot(labels, 3).movedim(-1, 1)
    if single:
        logits, truth = logits[:, :1], truth[:, :1]
        labels = truth[:, 0]
    factors = dict(lambda_dice=0.7, lambda_ce=0.3, batch=per_batch)
    theirs = MonaiDiceCELoss(
        include_background=single,
        softmax=not single,
        sigmoid=single,
        **factors,
    )
    mine = DiceCELoss(use_sigmoid=single, **factors)
    torch.testing.assert_close(
        mine(logits, labels), theirs(logits, truth.float())
    )


@both_ranks
def test_sum_has_a_weight_and_every_part_a_pixels(spatial_dims: int) -> None:
    logits, labels = batch(spatial_dims, ignored=True)
    weight = torch.rand(labels.shape)
    total = DiceCELoss(loss_weight=0.5)(logits, labels, weight=weight)
    dice = DiceCELoss(lambda_ce=0)(logits, labels, weight=weight)
    entropy = DiceCELoss(lambda_dice=0)(logits, labels, weight=weight)
    torch.testing.assert_close(total, 0.5 * (dice + entropy))
    for part in (dice, entropy):
        assert abs(part - 2 * total) > 0.1
