"""Cross entropy, of a softmax or of independent sigmoids."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ...registry import MODELS
from .segmentation_loss import (
    SegmentationLoss,
    softmax_,
    softmax_gradient,
    targets_and_mask,
    total_and_count,
    truth_and_mask,
)


@MODELS.register_module()
class CrossEntropyLoss(SegmentationLoss):
    """Cross entropy that forgets ignored pixels.

    With ``avg_non_ignore=False`` the sum is divided by all pixels, as
    mmsegmentation's default does (mmseg/models/losses/cross_entropy_loss.py).

    Args:
        loss_weight: Factor of this loss in the sum.
        use_sigmoid: Binary cross entropy of each class; a head fills it in.
        class_weight: A factor a class. Softmax: the mean is weighted too.
            Sigmoid: the factor of the positive pixels.
        label_smoothing: Share of the target given to all classes; softmax.
        avg_non_ignore: Average over the pixels that count.
        loss_name: Key in the log.
    """

    def __init__(
        self,
        *,
        loss_weight: float = 1.0,
        use_sigmoid: bool = False,
        class_weight: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        avg_non_ignore: bool = True,
        loss_name: str = 'loss_ce',
    ) -> None:
        super().__init__(
            loss_weight=loss_weight,
            use_sigmoid=use_sigmoid,
            loss_name=loss_name,
        )
        if use_sigmoid and label_smoothing:
            raise ValueError(
                'label_smoothing works with softmax only; remove it, or '
                'train classes that exclude each other'
            )
        self.class_weight = class_weight
        self.label_smoothing = label_smoothing
        self.avg_non_ignore = avg_non_ignore

    def sums(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
    ) -> Tensor:
        """Sum the losses and the count; see the base class."""
        if self.use_sigmoid:
            return self._binary(logits, labels, ignore_index, weight)
        losses = self.pixel_losses(logits, labels, ignore_index)
        return self._mean(losses, labels, ignore_index, weight)

    def sums_and_gradient(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
        slope: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Do both in place; see the base class."""
        if self.use_sigmoid or self.label_smoothing:
            return super().sums_and_gradient(
                logits, labels, ignore_index, weight, slope
            )
        sums, truth, factor = self.softmax_sums(
            logits, labels, ignore_index, weight
        )
        return sums, softmax_gradient(logits, truth, factor * slope[:, :1])

    def softmax_sums(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Sum as ``sums`` does, and overwrite the logits with the softmax.

        Returns:
            The sums ``(n, 2)``, and each pixel's true class and factor.
        """
        factor, truth = self._factors(logits, labels, ignore_index)
        losses = -factor * softmax_(logits, truth)
        sums = self._mean(losses, labels, ignore_index, weight)
        return sums, truth, factor if weight is None else factor * weight

    def pixel_losses(
        self, logits: Tensor, labels: Tensor, ignore_index: int
    ) -> Tensor:
        """Compute a softmax's loss a pixel ``(n, P)``, 0 where ignored."""
        class_weight = self.class_weight
        if class_weight is not None:
            class_weight = logits.new_tensor(class_weight)
        return F.cross_entropy(
            logits,
            labels,
            weight=class_weight,
            ignore_index=ignore_index,
            label_smoothing=self.label_smoothing,
            reduction='none',
        )

    def _factors(
        self, logits: Tensor, labels: Tensor, ignore_index: int
    ) -> tuple[Tensor, Tensor]:
        """Return each pixel's class weight, 0 where ignored, and class."""
        truth, factor = truth_and_mask(labels, ignore_index, logits.dtype)
        if self.class_weight is not None:
            factor = factor * factor.new_tensor(self.class_weight)[truth]
        return factor, truth

    def _mean(
        self,
        losses: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
    ) -> Tensor:
        counts, _ = self._factors(losses, labels, ignore_index)
        if self.class_weight is None and not self.avg_non_ignore:
            counts = torch.ones_like(losses)
        return total_and_count(losses, counts, weight)

    def _binary(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
    ) -> Tensor:
        targets, mask = targets_and_mask(logits, labels, ignore_index)
        factor = self.class_weight
        if factor is not None:
            factor = logits.new_tensor(factor)[:, None]
        losses = F.binary_cross_entropy_with_logits(
            logits, targets, weight=mask, pos_weight=factor, reduction='none'
        )
        counts = mask if self.avg_non_ignore else torch.ones_like(mask)
        counts = counts.expand_as(losses)
        if weight is not None:
            weight = weight[:, None]
        return total_and_count(losses, counts, weight)
