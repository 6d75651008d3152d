"""From the grid a network sees back to the grid of the file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor


@dataclass(frozen=True)
class CaseGeometry:
    """How a case was transposed and cropped before it was resampled.

    All tuples follow arrays ``(z, y, x)``, in voxels.

    Attributes:
        ori_shape: Grid of the source file.
        axes: The source's axes in their new order: the transposed grid is
            ``source.transpose(axes)``.
        crop_box: ``(start, stop)`` an axis of the transposed grid. What was
            cut out was resampled to the network's grid.
        case: Name of the case, for messages.

    Raises:
        ValueError: The box does not lie in the grid, or the axes are no
            permutation.
    """

    ori_shape: tuple[int, ...]
    axes: tuple[int, ...]
    crop_box: tuple[tuple[int, int], ...]
    case: str = 'a case'

    @classmethod
    def from_metainfo(cls, metainfo: Mapping[str, Any]) -> Self | None:
        """Read ``ori_shape``, ``axes`` and ``crop_box`` of a sample.

        Returns:
            ``None`` for a sample without ``crop_box``, such as an image.
        """
        if 'crop_box' not in metainfo:
            return None
        shape = tuple(int(size) for size in metainfo['ori_shape'])
        return cls(
            ori_shape=shape,
            axes=tuple(metainfo.get('axes', range(len(shape)))),
            crop_box=tuple(
                (int(start), int(stop)) for start, stop in metainfo['crop_box']
            ),
            case=str(metainfo.get('case', cls.case)),
        )

    def __post_init__(self) -> None:
        rank = len(self.ori_shape)
        if sorted(self.axes) != list(range(rank)):
            raise ValueError(
                f'{self.case}: axes={self.axes} must be a permutation of the '
                f'{rank} axes of ori_shape={self.ori_shape}'
            )
        fits = len(self.crop_box) == rank and all(
            0 <= start < stop <= size
            for (start, stop), size in zip(
                self.crop_box, self.transposed_shape, strict=True
            )
        )
        if not fits:
            raise ValueError(
                f'{self.case}: crop_box={self.crop_box} must lie in the grid '
                f'{self.transposed_shape}, which is ori_shape='
                f'{self.ori_shape} in the order axes={self.axes}'
            )

    @property
    def transposed_shape(self) -> tuple[int, ...]:
        """Size of the source's grid after the transposition."""
        return tuple(self.ori_shape[axis] for axis in self.axes)

    @property
    def box_shape(self) -> tuple[int, ...]:
        """Size of the box, before it was resampled."""
        return tuple(stop - start for start, stop in self.crop_box)

    def paste(self, labels: Tensor) -> Tensor:
        """Put labels of the box into the source's grid; 0 around them.

        Args:
            labels: ``(C, *box_shape)``, of any dtype.

        Returns:
            ``(C, *ori_shape)``.
        """
        grid = labels.new_zeros(len(labels), *self.transposed_shape)
        grid[(..., *(slice(*ends) for ends in self.crop_box))] = labels
        back = [1 + self.axes.index(axis) for axis in range(len(self.axes))]
        return grid.permute(0, *back).contiguous()
