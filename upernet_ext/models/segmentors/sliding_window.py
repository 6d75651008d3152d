"""Windows that cover an image or a volume."""

from collections.abc import Iterator, Sequence
from itertools import islice, product


def window_slices(
    shape: Sequence[int], window: Sequence[int], stride: Sequence[int]
) -> list[tuple[slice, ...]]:
    """Cover a grid with windows; the last of an axis ends at the border.

    The same windows as mmsegmentation's ``slide_inference``. Where the grid
    is smaller than the window, the window is the grid.

    Args:
        shape: The grid ``S``.
        window: Size of a window, in pixels.
        stride: Distance between windows, in pixels.

    Raises:
        ValueError: A stride is larger than its window (pixels would be left
            out), or the ranks differ.
    """
    if not len(shape) == len(window) == len(stride):
        raise ValueError(
            f'crop_size={tuple(window)} and stride={tuple(stride)} need one '
            f'number for each axis of the image {tuple(shape)}'
        )
    if any(not 0 < s <= w for s, w in zip(stride, window, strict=True)):
        raise ValueError(
            f'stride={tuple(stride)} must be positive and at most crop_size='
            f'{tuple(window)}, or pixels would be left out'
        )
    axes = []
    for size, edge, step in zip(shape, window, stride, strict=True):
        last = max(size - edge, 0)
        count = -(-last // step) + 1
        starts = [min(i * step, last) for i in range(count)]
        axes.append([slice(s, min(s + edge, size)) for s in starts])
    return list(product(*axes))


def batched(
    windows: Sequence[tuple[slice, ...]], size: int
) -> Iterator[list[tuple[slice, ...]]]:
    """Yield the windows, ``size`` at a time."""
    iterator = iter(windows)
    while chunk := list(islice(iterator, size)):
        yield chunk
