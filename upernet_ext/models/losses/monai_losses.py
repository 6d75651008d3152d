"""MONAI's losses behind this package's contract.

They know no ignored pixels; here what is ignored is taken out of both sides,
so that it changes nothing. Library: https://github.com/Project-MONAI/MONAI,
Apache-2.0.
"""

from torch import Tensor

from ...registry import MODELS
from .segmentation_loss import SegmentationLoss, targets_and_mask


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
        self.dice = _monai_losses().DiceLoss(
            include_background=include_background or use_sigmoid,
            batch=batch,
            smooth_nr=smooth,
            smooth_dr=smooth,
        )

    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
    ) -> Tensor:
        """Compute the loss at the labels' size; see the base class."""
        targets, mask = targets_and_mask(logits, labels, ignore_index)
        if weight is not None:
            mask = mask * weight[:, None]
        scores = logits.sigmoid() if self.use_sigmoid else logits.softmax(1)
        return self.dice(scores * mask, targets * mask)


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

    def loss(
        self,
        logits: Tensor,
        labels: Tensor,
        ignore_index: int,
        weight: Tensor | None,
    ) -> Tensor:
        """Compute the loss at the labels' size; see the base class."""
        targets, mask = targets_and_mask(logits, labels, ignore_index)
        losses = self.focal(logits, targets)
        mask = mask.expand_as(losses)
        count = mask.sum().clamp(min=1)
        if weight is not None:
            mask = mask * weight[:, None]
        return (losses * mask).sum() / count
