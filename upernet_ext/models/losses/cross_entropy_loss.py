"""Cross entropy, of a softmax or of independent sigmoids."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ...registry import MODELS
from .segmentation_loss import SegmentationLoss, targets_and_mask


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

    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
    ) -> Tensor:
        """Compute the loss at the labels' size; see the base class."""
        class_weight = self.class_weight
        if class_weight is not None:
            class_weight = logits.new_tensor(class_weight)
        if self.use_sigmoid:
            return self._binary(
                logits, labels, ignore_index, weight, class_weight
            )
        losses = F.cross_entropy(
            logits,
            labels,
            weight=class_weight,
            ignore_index=ignore_index,
            label_smoothing=self.label_smoothing,
            reduction='none',
        )
        mask = labels != ignore_index
        if class_weight is not None:
            count = class_weight[labels[mask]].sum()
        else:
            count = mask.sum() if self.avg_non_ignore else labels.numel()
        return self._mean(losses, count, weight)

    def _binary(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
        class_weight: Tensor | None,
    ) -> Tensor:
        targets, mask = targets_and_mask(logits, labels, ignore_index)
        if class_weight is not None:
            class_weight = class_weight.view(-1, *[1] * (logits.ndim - 2))
        losses = F.binary_cross_entropy_with_logits(
            logits, targets, pos_weight=class_weight, reduction='none'
        )
        mask = mask.expand_as(losses)
        if weight is not None:
            weight = weight[:, None]
        count = mask.sum() if self.avg_non_ignore else losses.numel()
        return self._mean(losses * mask, count, weight)

    @staticmethod
    def _mean(
        losses: Tensor, count: Tensor | int, weight: Tensor | None
    ) -> Tensor:
        if weight is not None:
            losses = losses * weight
        # Where every pixel is ignored the sum is 0: keep it 0, not 0 / 0.
        smallest = 1e-12
        if isinstance(count, Tensor):
            count = count.clamp(min=smallest)
        return losses.sum() / count
