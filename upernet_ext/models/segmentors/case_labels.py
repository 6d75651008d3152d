"""The labels of a case, in its file's grid, from scores in the network's."""

import torch
from torch import Tensor

from ...structures import CaseGeometry
from .lazy_logits import LazyLogits, classes_above, largest_class


def case_labels(
    scores: LazyLogits,
    geometry: CaseGeometry,
    *,
    threshold: float | None = None,
) -> Tensor:
    """Resample scores to the crop box, decide, and paste into the source.

    Scores are resampled, not labels, trilinearly along every axis. (nnU-Net
    takes the nearest slice along the coarse axis of anisotropic cases.) A few
    classes at a time are, however many there are.

    Args:
        scores: ``(1, K, *S)``, logits or probabilities, at any size.
        geometry: Of the case.
        threshold: The score above which a class is there, by itself. ``None``
            for classes that exclude each other: the largest score wins.

    Returns:
        uint8 ``(1, *ori_shape)`` class indices, or ``(K, *ori_shape)`` of 0
        and 1 with a threshold.
    """
    scores = scores.to(torch.float32).resize(geometry.box_shape)
    if threshold is None:
        labels = largest_class(scores).byte()
    else:
        labels = classes_above(scores, threshold)
    return geometry.paste(labels[0])
