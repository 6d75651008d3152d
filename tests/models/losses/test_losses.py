import pytest
import torch
from mmseg.models.losses import cross_entropy
from torch.nn import functional as F  # noqa: N812

from upernet_ext.layers.rank import resize
from upernet_ext.models import (
    CrossEntropyLoss,
    DiceCELoss,
    DiceLoss,
    FocalLoss,
)

LOSSES = [
    CrossEntropyLoss(),
    CrossEntropyLoss(class_weight=[1.0, 2.0, 0.5]),
    CrossEntropyLoss(label_smoothing=0.1),
    CrossEntropyLoss(avg_non_ignore=False),
    CrossEntropyLoss(use_sigmoid=True),
    CrossEntropyLoss(use_sigmoid=True, class_weight=[1.0, 2.0, 0.5]),
    DiceLoss(),
    DiceLoss(use_sigmoid=True, batch=True),
    DiceCELoss(),
    DiceCELoss(use_sigmoid=True, batch=True),
    FocalLoss(),
    FocalLoss(use_sigmoid=True, alpha=0.25),
]
every_loss = pytest.mark.parametrize('loss', LOSSES)
both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])


def batch(spatial_dims: int, classes: int = 3) -> tuple:
    size = [5, 6, 4][:spatial_dims]
    logits = torch.randn(2, classes, *size, requires_grad=True)
    return logits, torch.randint(max(classes, 2), (2, *size))


@both_ranks
@every_loss
def test_ignored_pixels_change_nothing(loss, spatial_dims: int) -> None:
    logits, labels = batch(spatial_dims)
    labels[:, 0] = 255
    moved = logits.detach().clone()
    moved[:, :, 0] += torch.randn_like(moved[:, :, 0])
    torch.testing.assert_close(loss(moved, labels), loss(logits, labels))
    loss(logits, labels).backward()
    assert logits.grad[:, :, 0].abs().max() == 0
    assert logits.grad[:, :, 1:].abs().max() > 0


# An empty Dice is 0 / 0, which MONAI smooths to 1: the loss is 0 as well.
@both_ranks
@every_loss
def test_everything_ignored_is_zero(loss, spatial_dims: int) -> None:
    logits, labels = batch(spatial_dims)
    value = loss(logits, torch.full_like(labels, 255))
    value.backward()
    assert value.item() == 0
    assert logits.grad.abs().max() == 0


@both_ranks
@every_loss
def test_low_resolution_logits_are_upsampled(loss, spatial_dims: int) -> None:
    logits, _ = batch(spatial_dims)
    labels = torch.randint(3, (2, *[9] * spatial_dims))
    full = resize(logits, labels.shape[1:])
    torch.testing.assert_close(loss(logits, labels), loss(full, labels))


@both_ranks
@every_loss
def test_a_better_prediction_costs_less(loss, spatial_dims: int) -> None:
    _, labels = batch(spatial_dims)
    right = 8 * F.one_hot(labels, 3).movedim(-1, 1).float() - 4
    assert loss(right, labels) < loss(0 * right, labels) < loss(-right, labels)


@both_ranks
@pytest.mark.parametrize('average', [False, True])
def test_cross_entropy_equals_mmseg(spatial_dims: int, average: bool) -> None:
    logits, labels = batch(spatial_dims)
    labels[0, :2] = 255
    expected = 0.4 * cross_entropy(
        logits, labels, ignore_index=255, avg_non_ignore=average
    )
    found = CrossEntropyLoss(loss_weight=0.4, avg_non_ignore=average)(
        logits, labels
    )
    torch.testing.assert_close(found, expected)


@both_ranks
@pytest.mark.parametrize('smoothing', [0.0, 0.2])
def test_cross_entropy_equals_torch(
    spatial_dims: int, smoothing: float
) -> None:
    logits, labels = batch(spatial_dims)
    labels[0, :2] = 255
    weight = torch.tensor([1.0, 3.0, 0.2])
    expected = F.cross_entropy(
        logits, labels, weight, ignore_index=255, label_smoothing=smoothing
    )
    found = CrossEntropyLoss(
        class_weight=weight.tolist(), label_smoothing=smoothing
    )(logits, labels)
    torch.testing.assert_close(found, expected)


@both_ranks
def test_single_class_is_binary_cross_entropy(spatial_dims: int) -> None:
    logits, labels = batch(spatial_dims, classes=1)
    labels[0, :2] = 255
    mask = labels != 255
    expected = F.binary_cross_entropy_with_logits(
        logits[:, 0][mask], labels[mask].float()
    )
    loss = CrossEntropyLoss(use_sigmoid=True)
    torch.testing.assert_close(loss(logits, labels), expected)


@both_ranks
def test_multi_label_targets(spatial_dims: int) -> None:
    logits, _ = batch(spatial_dims)
    labels = torch.randint(2, logits.shape)
    labels[:, 1, 0] = 255
    mask = labels != 255
    expected = F.binary_cross_entropy_with_logits(
        logits[mask], labels[mask].float()
    )
    loss = CrossEntropyLoss(use_sigmoid=True)
    torch.testing.assert_close(loss(logits, labels), expected)


@both_ranks
def test_dice_equals_its_formula(spatial_dims: int) -> None:
    logits, labels = batch(spatial_dims)
    labels[0, :2] = 255
    mask = (labels != 255)[:, None]
    truth = F.one_hot(labels.where(labels != 255, 0), 3).movedim(-1, 1) * mask
    scores = logits.softmax(1) * mask
    axes = tuple(range(2, logits.ndim))
    overlap = 2 * (scores * truth).sum(axes)
    expected = 1 - (overlap + 1e-5) / ((scores + truth).sum(axes) + 1e-5)
    torch.testing.assert_close(DiceLoss()(logits, labels), expected.mean())


@both_ranks
def test_focal_equals_its_formula(spatial_dims: int) -> None:
    logits, labels = batch(spatial_dims)
    labels[0, :2] = 255
    truth = F.one_hot(labels.where(labels != 255, 0), 3).movedim(-1, 1)
    scores = logits.sigmoid()
    right = torch.where(truth == 1, scores, 1 - scores)
    losses = -((1 - right) ** 2) * right.log()
    mask = (labels != 255)[:, None].expand_as(losses)
    found = FocalLoss(use_sigmoid=True)(logits, labels)
    torch.testing.assert_close(found, losses[mask].mean())


def test_pixel_weights_of_a_sampler() -> None:
    logits, labels = batch(2)
    weight = torch.rand(labels.shape)
    losses = F.cross_entropy(logits, labels, reduction='none')
    found = CrossEntropyLoss()(logits, labels, weight=weight)
    torch.testing.assert_close(found, (losses * weight).mean())


def test_smoothing_of_sigmoids_is_refused() -> None:
    with pytest.raises(ValueError, match='softmax only'):
        CrossEntropyLoss(use_sigmoid=True, label_smoothing=0.1)
