"""Windows that cover an image or a volume, and the mean of what they see.

There are two rules, each complete. mmsegmentation's: a fixed stride, the last
window clamped to the border, equal weights, a window no larger than the image.
nnU-Net's: windows evenly distributed, weighted by a gaussian, the image padded
to at least one window. The first overlaps the last two windows by whatever is
left, which costs nothing where every pixel of a window counts the same. Where
a gaussian makes the seams soft, all of them should be equally far from the
centres.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, pairwise, product

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

Window = tuple[slice, ...]


def window_slices(
    shape: Sequence[int],
    window: Sequence[int],
    stride: Sequence[float],
    *,
    steps: str = 'clamped',
) -> list[Window]:
    """Cover a grid with windows.

    Where the grid is smaller than the window, the window is the grid.

    Args:
        shape: The grid ``S``.
        window: Size of a window, in pixels.
        stride: Largest distance between windows, in pixels.
        steps: ``'clamped'``: windows lie ``stride`` apart, and the last of
            an axis ends at the border (mmsegmentation's
            ``slide_inference``). ``'even'``: as many windows, the same
            distance apart up to rounding (nnU-Net's
            ``compute_steps_for_sliding_window``).

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
        count = math.ceil(last / step) + 1
        if steps == 'even':
            apart = last / max(count - 1, 1)
            starts = [round(apart * i) for i in range(count)]
        else:
            starts = [min(i * step, last) for i in range(count)]
        axes.append([slice(s, min(s + edge, size)) for s in starts])
    return list(product(*axes))


def overlap_stride(
    window: Sequence[int], overlap: float, *, steps: str
) -> list[float]:
    """Turn the overlap of neighbours into the distance between them.

    Args:
        window: Size of a window, in pixels.
        overlap: Share of a window, in [0, 1).
        steps: Of ``window_slices``; ``'clamped'`` steps are whole pixels,
            rounded down.

    Raises:
        ValueError: ``overlap`` is not in [0, 1).
    """
    if not 0 <= overlap < 1:
        raise ValueError(
            f'model.test_cfg.overlap={overlap} must lie in [0, 1): it is the '
            'share of a window that its neighbour sees too'
        )
    stride = [edge * (1 - overlap) for edge in window]
    if steps == 'even':
        return stride
    return [max(1, int(step)) for step in stride]


def gaussian_weight(window: Sequence[int]) -> Tensor:
    """How much each pixel of a window counts: 1 in the centre.

    A standard deviation is an eighth of the window, and the centre of an even
    window the pixel behind the middle: nnU-Net's ``compute_gaussian``.

    Returns:
        ``(*window)``, float64, nowhere 0.
    """
    weight = torch.ones((), dtype=torch.float64)
    for edge in window:
        distance = torch.arange(edge, dtype=torch.float64) - edge // 2
        weight = weight[..., None] * torch.exp(
            -((distance * 8 / edge) ** 2) / 2
        )
    return weight


def pad_to_window(x: Tensor, window: Sequence[int]) -> tuple[Tensor, Window]:
    """Pad ``(N, C, *S)`` with zeros, around, to at least a window.

    Zero is the mean of a normalised volume. ``S`` may have more axes than the
    window, in front.

    Returns:
        The padded tensor, and where in it the grid ``S`` lies.
    """
    grid = x.shape[-len(window) :]
    missing = [max(0, w - s) for w, s in zip(window, grid, strict=True)]
    pads = [(m // 2, m - m // 2) for m in missing]
    content = tuple(
        slice(before, before + size)
        for (before, _), size in zip(pads, grid, strict=True)
    )
    flat = [n for pair in reversed(pads) for n in pair]
    return (F.pad(x, flat) if any(flat) else x), content


def accumulator_device(
    accumulate: str, device: torch.device, num_bytes: int
) -> torch.device:
    """Choose where the sums of the windows live.

    Args:
        accumulate: ``'device'``, that of the network; ``'cpu'``; or
            ``'auto'``: the CPU where the sums would take more than half of a
            GPU's free memory, because the network and the resampling of the
            result need the rest.
        device: Of the network.
        num_bytes: Of the sums.
    """
    if accumulate == 'cpu':
        return torch.device('cpu')
    if accumulate == 'auto' and device.type == 'cuda':
        cached = torch.cuda.memory_reserved(device)
        cached -= torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + cached
        if 2 * num_bytes > free:
            return torch.device('cpu')
    return device


class WindowMean:
    """The weighted mean of overlapping windows, accumulated in place.

    Args:
        windows: All of them, in the order in which they are added.
        grid: ``S``.
        weight: Of each pixel of a window; its axes are the window's last
            ones. ``None``: all count the same.
        dtype: Of the sums.
        device: Of the values.
        accumulate: Where the sums live, see ``accumulator_device``.
    """

    def __init__(
        self,
        windows: Sequence[Window],
        grid: Sequence[int],
        weight: Tensor | None,
        *,
        dtype: torch.dtype,
        device: torch.device,
        accumulate: str,
    ) -> None:
        self.accumulate = accumulate
        self.windows = windows
        self.weight = None if weight is None else weight.to(device, dtype)
        self.count = torch.zeros(tuple(grid), dtype=dtype, device=device)
        for window in windows:
            self.count[window] += 1 if weight is None else self.weight

    def __call__(self, values: Iterable[Tensor]) -> Tensor:
        """Average values ``(N, k, *window)``, one tensor a window.

        Args:
            values: In the order of the windows; each is added before the next
                one is asked for.

        Returns:
            ``(N, k, *S)``.
        """
        ((_, mean),) = self.bands(values, [0, len(self.count)])
        return mean

    def bands(
        self, values: Iterable[Tensor], edges: Sequence[int] | None = None
    ) -> Iterator[tuple[int, Tensor]]:
        """Average band by band; a band is gone before later ones are begun.

        Bands are cut across the first axis of the grid, along which windows
        come in order.

        Args:
            values: As above.
            edges: Where the bands begin, and where the last one ends; by
                default wherever a window begins or ends.

        Yields:
            The first row, and the mean ``(N, k, rows, *S[1:])``: finished,
            because the next window begins behind it.
        """
        if edges is None:
            ends = [(w[0].start, w[0].stop) for w in self.windows]
            edges = sorted(set(chain.from_iterable(ends)))
        waiting = deque(pairwise(edges))
        sums: dict[int, Tensor] = {}
        empty = None
        values = iter(values)
        for window in self.windows:
            while waiting[0][1] <= window[0].start:
                yield self._finished(*waiting.popleft(), sums)
            value = next(values)
            if empty is None:
                empty = self._empty(value.shape[:2], edges)
            for first, last in waiting:
                if first >= window[0].stop:
                    break
                if first not in sums:
                    shape = list(empty.shape)
                    shape[2] = last - first
                    sums[first] = empty.new_zeros(shape)
                self._add(sums[first], value, window, first, last)
            # The next one is computed before this name is bound again.
            del value
        for first, last in waiting:
            yield self._finished(first, last, sums)

    def _add(
        self,
        band: Tensor,
        value: Tensor,
        window: Window,
        first: int,
        last: int,
    ) -> None:
        """Add a window's rows between two rows of the grid."""
        start = window[0].start
        low, high = max(first, start), min(last, window[0].stop)
        rows = slice(low - first, high - first), *window[1:]
        seen = slice(low - start, high - start)
        part = value[:, :, seen].to(band.device)
        if self.weight is None:
            band[(..., *rows)] += part
        else:
            weight = self.weight.expand(value.shape[2:])[seen]
            band[(..., *rows)].addcmul_(part, weight.to(band.device))

    def _finished(
        self, first: int, last: int, sums: dict[int, Tensor]
    ) -> tuple[int, Tensor]:
        total = sums.pop(first)
        return first, total.div_(self.count[first:last].to(total.device))

    def place(self, num_bytes: int) -> torch.device:
        """Choose where that much lives."""
        device = self.count.device
        return accumulator_device(self.accumulate, device, num_bytes)

    def _empty(self, batch: Sequence[int], edges: Sequence[int]) -> Tensor:
        """Make ``(N, k, 0, *S[1:])`` where the open bands will fit."""
        span = self.windows[0][0]
        longest = max(last - first for first, last in pairwise(edges))
        rows = max(longest, span.stop - span.start)
        rest = self.count.shape[1:]
        num_bytes = math.prod((*batch, rows, *rest)) * self.count.itemsize
        device = self.place(num_bytes)
        return self.count.new_empty((*batch, 0, *rest), device=device)


def batched(windows: Sequence[Window], size: int) -> Iterator[list[Window]]:
    """Yield the windows, ``size`` at a time."""
    iterator = iter(windows)
    while chunk := list(islice(iterator, size)):
        yield chunk
