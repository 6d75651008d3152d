"""Linear resizing as one matrix an axis.

``layers.rank.resize`` is linear and separable: bilinear or trilinear
interpolation multiplies each axis by a small matrix. Written so, it can change
places with whatever else is linear (a convolution), and be done for a few
rows of the result at a time.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


@lru_cache(maxsize=256)
def resize_matrix(
    low: int,
    high: int,
    align_corners: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """Return ``A`` of shape ``(high, low)`` with ``resize(x) = A x``.

    Of one axis; the numbers are torch's own, of ``F.interpolate`` in float64.
    The result is shared: do not write into it.

    Args:
        low: Pixels of the axis.
        high: Pixels after the resize.
        align_corners: As in ``F.interpolate``.
        dtype: Of the matrix.
        device: Of the matrix.
    """
    # Not under inference_mode, whose tensors no backward pass may save.
    with torch.inference_mode(mode=False), torch.no_grad():
        unit = torch.eye(low, dtype=torch.float64)[None]
        columns = F.interpolate(
            unit, high, mode='linear', align_corners=align_corners
        )
        return columns[0].T.contiguous().to(dtype).to(device)
