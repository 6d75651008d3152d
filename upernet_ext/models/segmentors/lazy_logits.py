"""Logits at full size, of a few classes at a time.

Between a decode head and the labels every class goes its own way: it is
resized, cropped, mirrored, averaged over windows, views and models. So the
head's own maps are kept, which are small, and the way is gone for a few
classes, which are compared with the best so far. No tensor holds all classes
at full size. Each number is computed as it would be in such a tensor, and the
labels are the same, bit by bit.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain
from operator import itemgetter
from typing import Self

import torch
from torch import Tensor

from ...layers.rank import resize
from .sliding_window import WindowMean

# Scores computed at a time: what a CPU's caches hold; a GPU wants few kernels.
CPU_CHUNK_BYTES, DEVICE_CHUNK_BYTES = 2**22, 2**28
ALL = slice(None)
Band = tuple[int, Tensor]


@dataclass(frozen=True)
class LazyLogits:
    """Logits ``(N, K, *S)``, or probabilities, that nobody has computed yet.

    Attributes:
        shape: ``(N, K, *S)``.
        dtype: Of the logits.
        device: Where they are computed.
        num_bytes: Of what is kept to compute them from.
        compute: From a slice of the images and a slice of the classes to
            their logits, which are not written into.
        bands: Gives all logits at once, but a few rows of the grid's first
            axis at a time, in order: each with its first row. Can be asked
            once, and ``compute`` no more after it. ``None`` where classes are
            cheaper.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    num_bytes: int
    compute: Callable[[slice, slice], Tensor]
    bands: Callable[[], Iterator[Band]] | None = None

    @classmethod
    def of(cls, logits: Tensor) -> Self:
        """Wrap logits ``(N, K, *S)`` that are there."""
        return cls(
            tuple(logits.shape),
            logits.dtype,
            logits.device,
            logits.numel() * logits.itemsize,
            lambda images, classes: logits[images, classes],
        )

    @property
    def grid(self) -> tuple[int, ...]:
        """``S``."""
        return self.shape[2:]

    @property
    def full_bytes(self) -> int:
        """Of the logits of all classes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def full(self) -> Tensor:
        """Compute all of them, ``(N, K, *S)``."""
        return self.compute(ALL, ALL)

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield ``(k, logits)`` of the classes from ``k`` on, a few a time."""
        limit = (
            CPU_CHUNK_BYTES
            if self.device.type == 'cpu'
            else DEVICE_CHUNK_BYTES
        )
        classes = self.shape[1]
        step = max(1, limit * classes // self.full_bytes)
        for first in range(0, classes, step):
            yield first, self.compute(ALL, slice(first, first + step))

    def parts(self) -> 'Iterator[LazyLogits]':
        """Yield itself; or its bands, which are then its only form."""
        if self.bands is None:
            yield self
        else:
            yield from map(LazyLogits.of, map(itemgetter(1), self.bands()))

    def split(self, size: int) -> Iterator[Self]:
        """Cut the batch into parts of ``size`` images, as a tensor's split.

        What is kept is counted in equal shares.
        """
        if size == self.shape[0]:
            yield self
            return
        number = len(range(0, self.shape[0], size))
        for first in range(0, self.shape[0], size):
            yield replace(
                self,
                shape=(min(size, self.shape[0] - first), *self.shape[1:]),
                num_bytes=self.num_bytes // number,
                compute=partial(self._part, slice(first, first + size)),
                bands=None,
            )

    def _part(self, part: slice, images: slice, classes: slice) -> Tensor:
        chosen = range(self.shape[0])[part][images]
        return self.compute(slice(chosen.start, chosen.stop), classes)

    def each(
        self, step: Callable[[Tensor], Tensor], grid: Sequence[int]
    ) -> Self:
        """Put ``step``, which treats each class by itself, behind.

        Args:
            step: From ``(N, k, *S)`` to ``(N, k, *grid)``, for any ``k``.
            grid: The grid afterwards.
        """
        return replace(
            self,
            shape=(*self.shape[:2], *grid),
            bands=None,
            compute=lambda images, classes: step(
                self.compute(images, classes)
            ),
        )

    def to(self, dtype: torch.dtype) -> Self:
        """Convert to a dtype."""
        if dtype == self.dtype:
            return self
        lazy = self.each(lambda x: x.to(dtype), self.grid)
        return replace(lazy, dtype=dtype)

    def resize(self, grid: Sequence[int], align_corners: bool = False) -> Self:
        """Resample to a grid, see ``layers.rank.resize``."""
        if tuple(grid) == self.grid:
            return self
        return self.each(lambda x: resize(x, grid, align_corners), grid)

    def crop(self, window: Sequence[slice]) -> Self:
        """Cut a window, one slice an axis, out of the grid."""
        edges = [
            len(range(size)[part])
            for part, size in zip(window, self.grid, strict=True)
        ]
        if tuple(edges) == self.grid:
            return self
        cropped = self.each(lambda x: x[(..., *window)], edges)
        if self.bands is None:
            return cropped
        inner = [
            range(size)[part]
            for part, size in zip(window, self.grid, strict=True)
        ]
        return replace(cropped, bands=lambda: _cropped(self.bands(), inner))

    def flip(self, axes: Sequence[int]) -> Self:
        """Mirror along axes, counted from the end."""
        if not axes:
            return self
        return self.each(lambda x: x.flip(axes), self.grid)


def mean_of(parts: Iterable[LazyLogits], count: int) -> LazyLogits:
    """Average logits of one shape, in at least float32.

    What the parts are computed from is kept, unless their sum is smaller.

    Args:
        parts: Each is asked for once, in order.
        count: Of the parts.
    """
    parts = iter(parts)
    first = next(parts)
    wide = torch.promote_types(first.dtype, torch.float32)
    if count == 1:
        return first.to(wide)
    mean = replace(first, dtype=wide)

    def add_up(tensors: Iterable[Tensor]) -> Tensor:
        total = None
        for tensor in tensors:
            if total is None:
                total = tensor.to(wide, copy=True)
            else:
                total += tensor
        return total.div_(count)

    if count * first.num_bytes >= mean.full_bytes:
        together = chain(iter([first]), parts)
        return LazyLogits.of(add_up(part.full() for part in together))
    kept = [first, *parts]
    return replace(
        mean,
        num_bytes=sum(part.num_bytes for part in kept),
        compute=lambda images, classes: add_up(
            part.compute(images, classes) for part in kept
        ),
    )


def mean_of_windows(
    parts: Iterable[LazyLogits], mean: WindowMean
) -> LazyLogits:
    """Average what overlapping windows say.

    What the parts are computed from is kept, if that is less than half of
    their sum. Else each is added up at once, and the result comes in bands.

    Args:
        parts: One a window, ``(N, K, *window)``, in order.
        mean: Of these windows.
    """
    parts = iter(parts)
    first = next(parts)
    # An iterator lets its element go; chain keeps a list to its own end.
    parts = chain(iter([first]), parts)
    whole = LazyLogits(
        (*first.shape[:2], *mean.count.shape),
        mean.count.dtype,
        mean.count.device,
        first.num_bytes * len(mean.windows),
        lambda images, classes: mean(
            part.compute(images, classes) for part in kept
        ),
    )
    place = mean.place(whole.num_bytes)
    if 2 * whole.num_bytes < whole.full_bytes and place == whole.device:
        kept = list(parts)
        return whole
    # No name holds a window while the next one is computed.
    values = map(LazyLogits.full, parts)
    total = cache(lambda: mean(values))
    return replace(
        whole,
        device=mean.place(whole.full_bytes),
        num_bytes=whole.full_bytes,
        compute=lambda images, classes: total()[images, classes],
        bands=lambda: mean.bands(values),
    )


def largest_class(logits: LazyLogits) -> Tensor:
    """Decide as ``logits.full().argmax(1, keepdim=True)`` does.

    The lowest of equal classes wins; NaN counts as larger than any number.

    Returns:
        int16 ``(N, 1, *S)``.
    """
    return torch.cat(list(map(_largest_class, logits.parts())), dim=2)


def _largest_class(logits: LazyLogits) -> Tensor:
    best = labels = None
    for first, chunk in logits.chunks():
        for index, score in _leaders(chunk):
            if best is None:
                best = score.clone()
                labels = torch.zeros_like(best, dtype=torch.int16)
                labels += index
                mark = torch.empty_like(labels)
                continue
            # Classes come in order: a later one that wins is the maximum.
            torch.gt(score, best, out=mark)
            torch.maximum(labels, mark.mul_(index + first), out=labels)
            torch.maximum(best, score, out=best)
    if best.isnan().any():
        found = torch.zeros_like(best, dtype=torch.bool)
        for first, chunk in logits.chunks():
            for index, score in enumerate(chunk.split(1, dim=1), first):
                labels[score.isnan() & ~found] = index
                found |= score.isnan()
    return labels


def classes_above(scores: LazyLogits, threshold: float) -> Tensor:
    """Decide for each class by itself, as ``scores.full() > threshold``.

    Returns:
        uint8 ``(N, K, *S)``, 0 and 1.
    """

    def decide(part: LazyLogits) -> Tensor:
        found = [(chunk > threshold).byte() for _, chunk in part.chunks()]
        return torch.cat(found, dim=1)

    return torch.cat(list(map(decide, scores.parts())), dim=2)


def _leaders(chunk: Tensor) -> Iterator[tuple[int | Tensor, Tensor]]:
    """Yield classes of ``(N, k, *S)`` with scores ``(N, 1, *S)``, in order.

    All of them on a CPU, where a maximum along the classes is slow; elsewhere
    the pixel's largest, which is one kernel.
    """
    if chunk.device.type == 'cpu':
        yield from enumerate(chunk.split(1, dim=1))
    else:
        index = chunk.argmax(1, keepdim=True)
        yield index.short(), chunk.gather(1, index)


def _cropped(bands: Iterator[Band], inner: Sequence[range]) -> Iterator[Band]:
    """Cut ``inner``, one range an axis, out of bands of the grid."""
    rows, *others = (slice(axis.start, axis.stop) for axis in inner)

    def cut(band: Band) -> Band:
        first, logits = band
        low = max(rows.start - first, 0)
        high = max(rows.stop - first, 0)
        return (
            max(first, rows.start) - rows.start,
            logits[(..., slice(low, high), *others)],
        )

    return (band for band in map(cut, bands) if band[1].shape[2])
