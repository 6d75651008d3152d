"""The labels of a case, in its file's grid, from scores in the network's."""

import torch
from torch import Tensor

from ...layers.rank import resize
from ...structures import CaseGeometry


def case_labels(
    scores: Tensor, geometry: CaseGeometry, *, threshold: float | None = None
) -> Tensor:
    """Resample scores to the crop box, decide, and paste into the source.

    Scores are resampled, not labels, trilinearly along every axis. (nnU-Net
    takes the nearest slice along the coarse axis of anisotropic cases.) One
    class at a time is, so that memory holds two scores of each voxel of the
    box, however many classes there are.

    Args:
        scores: ``(K, *S)``, logits or probabilities, at any size.
        geometry: Of the case.
        threshold: The score above which a class is there, by itself. ``None``
            for classes that exclude each other: the largest score wins.

    Returns:
        uint8 ``(1, *ori_shape)`` class indices, or ``(K, *ori_shape)`` of 0
        and 1 with a threshold.
    """
    resampled = (
        resize(score[None, None].float(), geometry.box_shape)[0, 0]
        for score in scores
    )
    if threshold is not None:
        found = [(score > threshold).byte() for score in resampled]
        return geometry.paste(torch.stack(found))
    best = next(resampled).clone()
    labels = torch.zeros_like(best, dtype=torch.uint8)
    for index, score in enumerate(resampled, start=1):
        labels.masked_fill_(score > best, index)
        torch.maximum(best, score, out=best)
    return geometry.paste(labels[None])
