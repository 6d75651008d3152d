"""What every loss of this package shares.

A loss takes the LOW-resolution logits and the labels:
``loss(logits, labels)``. How the logits come to the labels' size is the
loss's own business, so that it need not hold them all at once.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ...layers.rank import resize
from ...structures import IGNORE_INDEX


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
    mask = labels != ignore_index
    targets = torch.where(mask, labels, 0)
    if labels.ndim < logits.ndim:
        mask = mask[:, None]
        if logits.shape[1] == 1:
            targets = targets[:, None]
        else:
            targets = F.one_hot(targets, logits.shape[1]).movedim(-1, 1)
            targets = targets * mask
    return targets.to(logits.dtype), mask.to(logits.dtype)


class SegmentationLoss(nn.Module, ABC):
    """Base class: resize the logits to the labels and weight the loss.

    Args:
        loss_weight: Factor of this loss in the sum.
        use_sigmoid: One independent sigmoid a class instead of a softmax; a
            head fills it in.
        loss_name: Key in the log; must start with ``loss_`` to be trained.
    """

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
    ) -> Tensor:
        """Compute the weighted loss.

        Args:
            logits: ``(N, K, *s)``, of any size.
            labels: ``(N, *S)`` class indices, or ``(N, K, *S)`` of 0 and 1
                for independent classes.
            ignore_index: Label of what does not count.
            align_corners: How the logits are resized to the labels.
            weight: ``(N, *S)``, a factor a pixel, from a pixel sampler.

        Returns:
            A scalar; 0 where nothing counts.
        """
        # Labels (N, *S) or (N, K, *S): the grid is the trailing axes.
        size = labels.shape[2 - logits.ndim :]
        logits = resize(logits, size, align_corners).float()
        return self.loss_weight * self.loss(
            logits, labels, ignore_index, weight
        )

    @abstractmethod
    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
    ) -> Tensor:
        """Compute the loss of logits ``(N, K, *S)`` at the labels' size."""
