"""What every loss of this package shares.

A loss takes the LOW-resolution logits and the labels:
``loss(logits, labels)``. It sees the logits at the labels' size in slabs
(``slabs.py``), and says two things: what it sums over the pixels of a slab,
and what its value is, given these sums over all slabs.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ...structures import IGNORE_INDEX
from .slabs import slab_loss


def targets_and_mask(
    logits: Tensor, labels: Tensor, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Turn labels into one 0/1 map a class, and tell what counts.

    Args:
        logits: ``(N, K, *S)``; only its shape and dtype are used.
        labels: ``(N, *S)`` class indices (0 or 1 where ``K`` is 1), or
            ``(N, K, *S)`` of 0 and 1.
        ignore_index: Marks what does not count.

    Returns:
        Targets ``(N, K, *S)``, 0 where ignored, and a mask ``(N, K, *S)`` or
        ``(N, 1, *S)``, 1 where a value counts; both of the logits' dtype.
    """
    counts = labels != ignore_index
    targets = torch.where(counts, labels, 0)
    mask = counts.to(logits.dtype)
    if labels.ndim == logits.ndim:
        return targets.to(logits.dtype), mask
    mask, targets = mask[:, None], targets[:, None]
    if logits.shape[1] == 1:
        return targets.to(logits.dtype), mask
    return logits.new_zeros(logits.shape).scatter_(1, targets, mask), mask


def truth_and_mask(
    labels: Tensor, ignore_index: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Split class indices into a class, 0 where ignored, and 1 or 0."""
    counts = labels != ignore_index
    return labels.where(counts, 0), counts.to(dtype)


def softmax_(logits: Tensor, truth: Tensor) -> Tensor:
    """Turn logits ``(n, K, P)`` into scores, in place.

    Taking fresh memory for each step of each slab costs as much as the step.

    Args:
        logits: Are overwritten with their softmax.
        truth: ``(n, P)``, the true class.

    Returns:
        The logarithm of the true class's score, ``(n, P)``.
    """
    logits -= logits.amax(1, keepdim=True)
    own = logits.gather(1, truth[:, None])
    total = logits.exp_().sum(1, keepdim=True)
    logits /= total
    return (own - total.log())[:, 0]


def class_sums(
    truth: Tensor, num_classes: int, *values: Tensor
) -> list[Tensor]:
    """Sum each of ``values`` ``(n, P)`` by true class, to ``(n, K)``.

    512 pixels at a time, then those: one long sum rounds worse.
    """
    block = torch.arange(truth.shape[1], device=truth.device) >> 9
    blocks = (truth.shape[1] - 1 >> 9) + 1
    index = truth + num_classes * block
    return [
        value.new_zeros(len(value), blocks * num_classes)
        .scatter_add_(1, index, value)
        .unflatten(1, (blocks, num_classes))
        .sum(1)
        for value in values
    ]


def softmax_gradient(
    scores: Tensor,
    truth: Tensor,
    entropy: Tensor | None,
    mask: Tensor | None = None,
    overlap_slope: Tensor | None = None,
    score_slope: Tensor | None = None,
) -> Tensor:
    """Differentiate cross entropy and Dice's sums, through the softmax.

    With ``s_k`` the slope of score ``p_k``, ``dx_k = p_k (s_k - p . s)``.

    Args:
        scores: ``(n, K, P)``, after the softmax; overwritten.
        truth: ``(n, P)``, the true class.
        entropy: ``(n, P)``, the factor of ``-log(scores[truth])``.
        mask: ``(n, P)``, the factor of scores and truth in Dice's sums.
        overlap_slope: ``(n, K)``, of ``sum(scores * truth * mask ** 2)``.
        score_slope: ``(n, K)``, of ``sum(scores * mask)``.

    Returns:
        ``(n, K, P)``.
    """
    truth = truth[:, None]
    at_truth, factor = 0, 0
    if entropy is not None:
        factor = entropy[:, None]
        at_truth = -factor
    if mask is not None:
        mask = mask[:, None]
        own = overlap_slope.gather(1, truth[:, 0])[:, None] * mask**2
        own = own * scores.gather(1, truth)
        at_truth = at_truth + own
        mean = mask * (score_slope[:, None] @ scores)
        factor = (mask * score_slope[:, :, None]).add_(factor - own - mean)
    return scores.mul_(factor).scatter_add_(1, truth, at_truth)


class SegmentationLoss(nn.Module, ABC):
    """Base class: compare in slabs, and weight the loss.

    Attributes:
        is_mean: The sums are those of the losses and of what counts, two an
            image, and the value is their quotient. The gradient then needs
            one pass over the slabs, else two.

    Args:
        loss_weight: Factor of this loss in the sum.
        use_sigmoid: One independent sigmoid a class instead of a softmax; a
            head fills it in.
        loss_name: Key in the log; must start with ``loss_`` to be trained.
    """

    is_mean = True

    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        use_sigmoid: bool = False,
        loss_name: str,
    ) -> None:
        super().__init__()
        self.loss_weight = loss_weight
        self.use_sigmoid = use_sigmoid
        self.loss_name = loss_name

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        ignore_index: int = IGNORE_INDEX,
        align_corners: bool = False,
        weight: Tensor | None = None,
        on_slab: Callable[[Tensor, Tensor], None] | None = None,
    ) -> Tensor:
        """Compute the weighted loss, in float32 or wider.

        Args:
            logits: ``(N, K, *s)``, of any size.
            labels: ``(N, *S)`` class indices, or ``(N, K, *S)`` of 0 and 1
                for independent classes.
            ignore_index: Label of what does not count.
            align_corners: How the logits are resized to the labels.
            weight: ``(N, *S)``, a factor a pixel, from a pixel sampler.
            on_slab: Is shown each slab's logits and labels, see
                ``slabs.slab_loss``.

        Returns:
            A scalar; 0 where nothing counts. It can be differentiated once.
        """
        return self.loss_weight * slab_loss(
            self,
            logits,
            labels,
            ignore_index=ignore_index,
            align_corners=align_corners,
            weight=weight,
            on_slab=on_slab,
        )

    @abstractmethod
    def sums(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
    ) -> Tensor:
        """Sum over the pixels of a slab what the value is made of.

        Args:
            logits: ``(n, K, P)`` of ``P`` pixels or voxels.
            labels: ``(n, P)`` or ``(n, K, P)``.
            ignore_index: Label of what does not count.
            weight: ``(n, P)`` or ``None``.

        Returns:
            ``(n, M)``; the sums of several slabs are added.
        """

    def sums_and_gradient(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
        slope: Tensor,
    ) -> tuple[Tensor | None, Tensor]:
        """Differentiate the sums of a slab, by autograd unless overridden.

        Args:
            logits: As in ``sums``, and so the next three.
            labels: ``(n, P)`` or ``(n, K, P)``.
            ignore_index: Label of what does not count.
            weight: ``(n, P)`` or ``None``.
            slope: ``(n, M)``, the factors of the sums.

        Returns:
            The sums, which may be ``None`` unless ``is_mean``, and the
            gradient ``(n, K, P)`` of ``(slope * sums).sum()``.
        """
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            sums = self.sums(logits, labels, ignore_index, weight)
        (gradient,) = torch.autograd.grad(sums, logits, slope)
        return sums.detach(), gradient

    def value(self, sums: Tensor) -> Tensor:
        """Compute the loss, a scalar, from the sums ``(N, M)``."""
        total, count = sums.sum(0)
        # Where every pixel is ignored the sum is 0: keep it 0, not 0 / 0.
        return total / count.clamp(min=1e-12)


def total_and_count(
    losses: Tensor, counts: Tensor, weight: Tensor | None
) -> Tensor:
    """Return a mean's sums ``(n, 2)``.

    Args:
        losses: ``(n, ...)``, 0 where ignored.
        counts: Their factors in the count.
        weight: Factors of the losses that are none in the count.
    """
    if weight is not None:
        losses = losses * weight
    return torch.stack([losses.flatten(1).sum(1), counts.flatten(1).sum(1)], 1)
