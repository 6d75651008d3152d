"""Dice and cross entropy together: nnU-Net's loss of volumes."""

import torch
from torch import Tensor

from ...registry import MODELS
from .cross_entropy_loss import CrossEntropyLoss
from .dice_loss import DiceLoss
from .segmentation_loss import SegmentationLoss


@MODELS.register_module()
class DiceCELoss(SegmentationLoss):
    """``lambda_dice * (1 - Dice) + lambda_ce * cross entropy``.

    nnU-Net's ``DC_and_CE_loss`` plus 1 (it takes Dice with a minus), and, of
    independent classes or regions, its ``DC_and_BCE_loss``: every class
    counts, and cross entropy is binary. Where voxels are ignored our binary
    cross entropy stays a mean over classes too; nnU-Net's becomes a sum.

    Args:
        loss_weight: Factor of this loss in the sum.
        use_sigmoid: Independent classes; a head fills it in.
        include_background: Let class 0 of a softmax count in Dice.
        batch: One Dice over the batch instead of one an image, nnU-Net's
            ``batch_dice``; of the images of one process.
        smooth: Added to both sides of Dice's fraction.
        lambda_dice: Factor of 1 - Dice.
        lambda_ce: Factor of cross entropy.
        loss_name: Key in the log.
    """

    is_mean = False

    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        use_sigmoid: bool = False,
        include_background: bool = False,
        batch: bool = False,
        smooth: float = 1e-5,
        lambda_dice: float = 1.0,
        lambda_ce: float = 1.0,
        loss_name: str = 'loss_dice_ce',
    ) -> None:
        super().__init__(
            loss_weight=loss_weight,
            use_sigmoid=use_sigmoid,
            loss_name=loss_name,
        )
        self.dice = DiceLoss(
            loss_weight=lambda_dice,
            use_sigmoid=use_sigmoid,
            include_background=include_background,
            batch=batch,
            smooth=smooth,
        )
        self.cross_entropy = CrossEntropyLoss(
            loss_weight=lambda_ce, use_sigmoid=use_sigmoid
        )

    def sums(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
    ) -> Tensor:
        """Put Dice's sums and cross entropy's two side by side."""
        args = (labels, ignore_index, weight)
        if self.use_sigmoid:
            dice = self.dice.sums(logits, *args)
            return torch.cat([dice, self.cross_entropy.sums(logits, *args)], 1)
        entropy, _, _ = self.cross_entropy.softmax_sums(logits, *args)
        dice = self.dice.softmax_sums(logits, *args)
        return torch.cat([dice, entropy], 1)

    def sums_and_gradient(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
        slope: Tensor,
    ) -> tuple[Tensor | None, Tensor]:
        """Differentiate both through one softmax; see the base class."""
        loss = super() if self.use_sigmoid else self.dice
        return loss.sums_and_gradient(
            logits, labels, ignore_index, weight, slope
        )

    def value(self, sums: Tensor) -> Tensor:
        """Add the two values; see the base class."""
        dice, cross_entropy = sums.split([sums.shape[1] - 2, 2], 1)
        return self.dice.loss_weight * self.dice.value(
            dice
        ) + self.cross_entropy.loss_weight * self.cross_entropy.value(
            cross_entropy
        )
