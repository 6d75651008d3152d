"""MONAI's focal loss behind this package's contract.

It knows no ignored pixels; here they are taken out of the mean. Library:
https://github.com/Project-MONAI/MONAI, Apache-2.0.
"""

from torch import Tensor

from ...registry import MODELS
from .segmentation_loss import (
    SegmentationLoss,
    targets_and_mask,
    total_and_count,
)


def _monai_losses() -> object:
    try:
        from monai import losses
    except ImportError as error:
        raise ImportError(
            "FocalLoss needs MONAI: pip install 'upernet_ext[volumes]'"
        ) from error
    return losses


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
