"""Labels, logits and images of any rank on one grid."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.structures import BaseDataElement, PixelData

# The label of pixels that count neither as right nor as wrong.
IGNORE_INDEX = 255


class GridData(PixelData):
    """Fields ``(C, *S)`` that share one grid ``S``: pixels or voxels.

    mmengine's ``PixelData`` refuses volumes. This subclass, which a
    ``SegDataSample`` accepts in its place, takes ``S = (H, W)`` and
    ``S = (D, H, W)``. Geometry travels as metainfo: ``spacing`` is the
    distance between neighbouring grid points in mm, one number an axis of
    ``S``.

    Example:
        >>> labels = GridData(data=torch.zeros(1, 4, 8, 8))
        >>> labels.shape
        (4, 8, 8)
    """

    def __setattr__(self, name: str, value: torch.Tensor | np.ndarray) -> None:
        """Add a field.

        Raises:
            TypeError: The value is neither a tensor nor an array.
            ValueError: Its rank is not 3 or 4, or its grid differs from the
                grid of the fields that are there already.
        """
        if name in ('_metainfo_fields', '_data_fields'):
            BaseDataElement.__setattr__(self, name, value)
            return
        if not isinstance(value, torch.Tensor | np.ndarray):
            raise TypeError(
                f'GridData.{name} must be a tensor or an array, '
                f'got {type(value).__name__}'
            )
        if value.ndim not in (3, 4):
            raise ValueError(
                f'GridData.{name} must be (C, H, W) or (C, D, H, W), got '
                f'shape {tuple(value.shape)}; add the channel axis'
            )
        others = [f for f in self.keys() if f != name]
        if others and tuple(value.shape[1:]) != tuple(
            getattr(self, others[0]).shape[1:]
        ):
            raise ValueError(
                f'GridData.{name} has grid {tuple(value.shape[1:])}, but '
                f'{others[0]} has {tuple(getattr(self, others[0]).shape[1:])}'
            )
        BaseDataElement.__setattr__(self, name, value)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The grid ``S``, or ``None`` while there is no field."""
        fields = self.values()
        return tuple(fields[0].shape[1:]) if fields else None

    def __getitem__(self, item: Sequence[int | slice]) -> 'GridData':
        """Crop every field; one index or slice an axis of ``S``.

        An index keeps its axis, with one element.

        Raises:
            ValueError: ``item`` has not one entry an axis.
        """
        item = item if isinstance(item, tuple) else (item,)
        if self.shape is None or len(item) != len(self.shape):
            raise ValueError(
                f'GridData of grid {self.shape} needs one slice an axis, '
                f'got {len(item)}'
            )
        window = tuple(
            slice(i, i + 1 or None) if isinstance(i, int) else i for i in item
        )
        cropped = type(self)(metainfo=self.metainfo)
        for name, value in self.items():
            setattr(cropped, name, value[(slice(None), *window)])
        return cropped
