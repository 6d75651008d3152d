"""Soft Dice that forgets ignored pixels.

The numbers are those of MONAI's ``DiceLoss`` (monai/losses/dice.py), with what
is ignored taken out of both sides.
"""

import torch
from torch import Tensor

from ...registry import MODELS
from .segmentation_loss import (
    SegmentationLoss,
    class_sums,
    softmax_,
    softmax_gradient,
    targets_and_mask,
    truth_and_mask,
)


@MODELS.register_module()
class DiceLoss(SegmentationLoss):
    """1 - soft Dice, a class at a time, then the mean.

    V-Net, https://arxiv.org/abs/1606.04797, section 3.

    Args:
        loss_weight: Factor of this loss in the sum.
        use_sigmoid: Independent classes; a head fills it in.
        include_background: Count class 0 of a softmax.
        batch: One Dice over the batch instead of one an image.
        smooth: Added to both sides of the fraction.
        loss_name: Key in the log.
    """

    is_mean = False

    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        use_sigmoid: bool = False,
        include_background: bool = True,
        batch: bool = False,
        smooth: float = 1e-5,
        loss_name: str = 'loss_dice',
    ) -> None:
        super().__init__(
            loss_weight=loss_weight,
            use_sigmoid=use_sigmoid,
            loss_name=loss_name,
        )
        self.first_class = 0 if include_background or use_sigmoid else 1
        self.batch = batch
        self.smooth = smooth

    def sums(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
    ) -> Tensor:
        """Sum overlap, scores and truth of each class: ``(n, 3 K)``."""
        if not self.use_sigmoid:
            truth, _ = truth_and_mask(labels, ignore_index, logits.dtype)
            softmax_(logits, truth)
            return self.softmax_sums(logits, labels, ignore_index, weight)
        truth, mask = targets_and_mask(logits, labels, ignore_index)
        if weight is not None:
            mask = mask * weight[:, None]
        scores, truth = logits.sigmoid() * mask, truth * mask
        parts = (scores * truth, scores, truth)
        return torch.cat([part.sum(2) for part in parts], 1)

    def softmax_sums(
        self,
        scores: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
    ) -> Tensor:
        """Sum as ``sums`` does, given and spoiling the softmax's scores."""
        truth, mask = self._truth_and_mask(
            labels, ignore_index, weight, scores.dtype
        )
        own = scores.gather(1, truth[:, None])[:, 0] * mask**2
        overlap, counts = class_sums(truth, scores.shape[1], own, mask)
        scores = scores.mul_(mask[:, None]).sum(2)
        return torch.cat([overlap, scores, counts], 1)

    def sums_and_gradient(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
        slope: Tensor,
    ) -> tuple[Tensor | None, Tensor]:
        """Differentiate in one go; see the base class.

        A column of ``slope`` behind Dice's is that of a cross entropy.
        """
        if self.use_sigmoid:
            return super().sums_and_gradient(
                logits, labels, ignore_index, weight, slope
            )
        truth, mask = self._truth_and_mask(
            labels, ignore_index, weight, logits.dtype
        )
        num_classes = logits.shape[1]
        overlap, scores, _, entropy = slope.split(
            [num_classes] * 3 + [slope.shape[1] - 3 * num_classes], 1
        )
        entropy = entropy[:, :1] * mask if entropy.shape[1] else None
        softmax_(logits, truth)
        return None, softmax_gradient(
            logits, truth, entropy, mask, overlap, scores
        )

    @staticmethod
    def _truth_and_mask(
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        truth, mask = truth_and_mask(labels, ignore_index, dtype)
        return truth, mask if weight is None else mask * weight

    def value(self, sums: Tensor) -> Tensor:
        """Compute the mean of the classes; see the base class."""
        if self.batch:
            sums = sums.sum(0, keepdim=True)
        overlap, scores, truth = sums.unflatten(1, (3, -1))[
            ..., self.first_class :
        ].unbind(1)
        dice = (2 * overlap + self.smooth) / (scores + truth + self.smooth)
        return (1 - dice).mean()
