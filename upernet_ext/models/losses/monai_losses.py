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
        truth, mask = targets_and_mask(logits, labels, ignore_index)
        scores = logits.sigmoid() if self.use_sigmoid else logits.softmax(1)
        scores = scores * mask
        if weight is not None:
            scores = scores * weight[:, None]
            truth = truth * weight[:, None]
        parts = (scores * truth, scores, truth)
        return torch.cat([part.sum(2) for part in parts], 1)

    def sums_and_gradient(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
        slope: Tensor,
        entropy: Tensor | None = None,
    ) -> tuple[None, Tensor]:
        """Differentiate in one go; see the base class.

        ``entropy`` ``(n, P)`` is the factor of a cross entropy beside Dice.
        """
        if self.use_sigmoid:
            return super().sums_and_gradient(
                logits, labels, ignore_index, weight, slope
            )
        truth, mask = truth_and_mask(labels, ignore_index, logits.dtype)
        if weight is not None:
            mask = mask * weight
        overlap, scores, _ = slope.chunk(3, 1)
        return None, softmax_gradient(
            logits.softmax(1), truth, entropy, mask, overlap, scores
        )

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
