"""MONAI's losses behind this package's contract.

They know no ignored pixels; here what is ignored is taken out of both sides,
so that it changes nothing. Library: https://github.com/Project-MONAI/MONAI,
Apache-2.0.
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
    total_and_count,
    truth_and_mask,
)


def _monai_losses() -> object:
    try:
        from monai import losses
    except ImportError as error:
        raise ImportError(
            'DiceLoss, DiceCELoss and FocalLoss need MONAI: '
            "pip install 'upernet_ext[volumes]'"
        ) from error
    return losses


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


@MODELS.register_module()
class FocalLoss(SegmentationLoss):
    """Cross entropy with the easy pixels turned down.

    https://arxiv.org/abs/1708.02002, equation 5; the mean is over the values
    that count.

    Args:
        loss_weight: Factor of this loss in the sum.
        use_sigmoid: Independent classes; a head fills it in.
        gamma: Exponent of the turning down.
        alpha: Weight of the positive side; ``None`` for none.
        loss_name: Key in the log.
    """

    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        use_sigmoid: bool = False,
        gamma: float = 2.0,
        alpha: float | None = None,
        loss_name: str = 'loss_focal',
    ) -> None:
        super().__init__(
            loss_weight=loss_weight,
            use_sigmoid=use_sigmoid,
            loss_name=loss_name,
        )
        self.focal = _monai_losses().FocalLoss(
            gamma=gamma,
            alpha=alpha,
            use_softmax=not use_sigmoid,
            reduction='none',
        )

    def sums(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
    ) -> Tensor:
        """Sum the losses and the count; see the base class."""
        targets, mask = targets_and_mask(logits, labels, ignore_index)
        losses = self.focal(logits, targets) * mask
        if weight is not None:
            weight = weight[:, None]
        return total_and_count(losses, mask.expand_as(losses), weight)
