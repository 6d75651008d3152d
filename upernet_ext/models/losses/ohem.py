"""Online hard example mining without full-size logits.

Paper: https://arxiv.org/abs/1604.03540. What is hard is mmsegmentation's
``OHEMPixelSampler`` (mmseg/structures/sampler/ohem_pixel_sampler.py); only one
number a pixel is kept for it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ...layers.precision import no_autocast
from .cross_entropy_loss import CrossEntropyLoss
from .segmentation_loss import SegmentationLoss
from .slabs import Slabs


@torch.compiler.disable
@torch.no_grad()
def hard_pixels(
    losses: Sequence[SegmentationLoss],
    logits: Tensor,
    labels: Tensor,
    *,
    threshold: float | None,
    min_kept: int,
    ignore_index: int,
    align_corners: bool,
) -> Tensor:
    """Mark the pixels to learn from.

    Args:
        losses: They rank the pixels where there is no threshold.
        logits: ``(N, K, *s)`` of a softmax, of low resolution.
        labels: ``(N, *S)``.
        threshold: A pixel is hard if the probability of its class is below
            this; ``None`` takes those of the largest loss.
        min_kept: Pixels to take an image, counted over the batch.
        ignore_index: Label of what does not count.
        align_corners: How the logits are resized to the labels.

    Returns:
        ``(N, *S)``, 1 for a hard pixel and 0 for others.

    Raises:
        ValueError: The head's classes do not exclude each other, or a loss
            has no value of a single pixel.
    """
    _check(losses, threshold)
    counts = labels != ignore_index
    entropy = _entropy(
        losses if threshold is None else [CrossEntropyLoss()],
        Slabs(logits, labels.shape[1:], align_corners),
        labels,
        ignore_index,
    )
    weight = torch.zeros_like(entropy)
    found = entropy[counts]
    kept = min(min_kept * len(labels), len(found) - (threshold is not None))
    if len(found) == 0:
        return weight
    if threshold is None:
        hard = torch.zeros_like(found)
        hard[found.topk(kept).indices] = 1
    else:
        score = (-found).exp()
        least = score.kthvalue(kept + 1).values.clamp(min=threshold)
        hard = (score < least).to(found.dtype)
    weight[counts] = hard
    return weight


def _entropy(
    losses: Sequence[CrossEntropyLoss],
    slabs: Slabs,
    labels: Tensor,
    ignore_index: int,
) -> Tensor:
    """Return the sum of the losses of each pixel, ``(N, *S)``."""
    rank = len(slabs.size)
    total = slabs.logits.new_empty(labels.shape)
    with no_autocast(labels.device):
        for slab in slabs:
            full, target = slabs.up(slab), slab.of(labels, rank)
            value = sum(
                loss.loss_weight
                * loss.pixel_losses(full, target, ignore_index)
                for loss in losses
            )
            part = total[slab.images, slab.rows]
            part.copy_(value.view(part.shape))
    return total


def _check(
    losses: Sequence[SegmentationLoss], threshold: float | None
) -> None:
    for loss in losses:
        name = type(loss).__name__
        if loss.use_sigmoid:
            raise ValueError(
                'OHEMPixelSampler takes the probabilities of a softmax, but '
                f'{name} has use_sigmoid=True (num_classes=1 or '
                'multi_label=True); remove the sampler'
            )
        if threshold is None and not isinstance(loss, CrossEntropyLoss):
            raise ValueError(
                'OHEMPixelSampler without thresh ranks the pixels by their '
                f'losses, but {name} has no loss of a single pixel; set '
                'thresh, such as 0.7'
            )
