"""Upsample and compare in slabs: no full-size logits, whatever the classes.

Upsampling is one matrix an axis, so a slab of rows (of slices, in 3D) of the
full-size logits is a few small products. Each slab is compared with its
labels, its gradient is brought back to low resolution at once, and only that
is kept for the backward pass. The idea is that of fused losses of large
vocabularies: https://arxiv.org/abs/2410.10989, section 3.2.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor, nn

from ...layers.linear_resize import resize_matrix
from ...layers.precision import no_autocast

# Of the logits of one slab. A processor wants it in its cache; an
# accelerator wants few slabs, for each is some fifty kernels to start.
SLAB_BYTES_CPU = 3 * 2**20
SLAB_BYTES_ACCELERATOR = 256 * 2**20


@dataclass(frozen=True)
class Slab:
    """Some rows of some images: of the labels, and of the logits behind."""

    images: slice
    rows: slice
    low_rows: slice

    def of(self, full: Tensor, rank: int) -> Tensor:
        """Cut ``(N, ..., *S)``, of ``rank`` axes ``S``, to ``(n, ..., P)``."""
        axis = full.ndim - rank
        length = self.rows.stop - self.rows.start
        part = full[self.images].narrow(axis, self.rows.start, length)
        return part.flatten(axis)


class Slabs:
    """The slabs of full-size logits, computed one at a time.

    Args:
        logits: ``(N, K, *s)``, of low resolution.
        size: ``S``, that of the labels.
        align_corners: As in ``layers.rank.resize``.
    """

    def __init__(
        self, logits: Tensor, size: Sequence[int], align_corners: bool
    ) -> None:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        self.logits = logits.detach().to(dtype).contiguous()
        self.size = tuple(size)
        self.align_corners = align_corners
        self.room = self.logits.new_empty(0)

    def __iter__(self) -> Iterator[Slab]:
        """Go through the images, and through the rows of each."""
        num_images, num_rows = len(self.logits), self.size[0]
        on_cpu = self.logits.device.type == 'cpu'
        most = SLAB_BYTES_CPU if on_cpu else SLAB_BYTES_ACCELERATOR
        bytes_per_image = (
            self.logits.element_size() * self.logits.shape[1] * prod(self.size)
        )
        images = max(1, most // bytes_per_image)
        pieces = min(num_rows, ceil(bytes_per_image / most))
        rows = ceil(num_rows / pieces)
        for image in range(0, num_images, images):
            for row in range(0, num_rows, rows):
                part = slice(row, min(row + rows, num_rows))
                yield Slab(
                    slice(image, min(image + images, num_images)),
                    part,
                    self._low_rows(part),
                )

    def up(self, slab: Slab) -> Tensor:
        """Upsample a slab to ``(n, K, P)`` of ``P`` pixels.

        The caller may write into it; the next call does, for fresh memory a
        slab costs time, and leaves holes in the heap.
        """
        x = self.logits[slab.images, :, slab.low_rows]
        # The first axis last: until then there are fewer rows to multiply.
        for axis in reversed(range(1, len(self.size))):
            x = _multiply(self._matrix(axis, slab), x, axis + 2)
        x, matrix = x.flatten(3), self._matrix(0, slab)
        rows = slab.rows.stop - slab.rows.start
        shape = (*x.shape[:2], rows, x.shape[3])
        if self.room.numel() < prod(shape):
            self.room = x.new_empty(prod(shape))
        room = self.room[: prod(shape)].view(shape)
        if matrix is None:
            room.copy_(x)
        else:
            torch.matmul(matrix, x, out=room)
        return room.flatten(2)

    def down(self, slab: Slab, gradient: Tensor, total: Tensor) -> None:
        """Add a slab's gradient ``(n, K, P)`` to that of the logits."""
        rows = slab.rows.stop - slab.rows.start
        x = gradient.unflatten(2, (rows, *self.size[1:]))
        for axis in range(len(self.size)):
            matrix = self._matrix(axis, slab)
            x = _multiply(None if matrix is None else matrix.T, x, axis + 2)
        total[slab.images, :, slab.low_rows] += x

    def _matrix(self, axis: int, slab: Slab) -> Tensor | None:
        """Return the part of an axis's matrix that makes a slab."""
        low = self.logits.shape[axis + 2]
        if low == self.size[axis]:
            return None
        matrix = resize_matrix(
            low,
            self.size[axis],
            self.align_corners,
            self.logits.dtype,
            self.logits.device,
        )
        return matrix if axis else matrix[slab.rows, slab.low_rows]

    def _low_rows(self, rows: slice) -> slice:
        """Find the low-resolution rows that some rows are made of."""
        low, high = self.logits.shape[2], self.size[0]
        if low == high:
            return rows
        matrix = resize_matrix(low, high, self.align_corners)
        used = matrix[rows].any(0).nonzero()
        return slice(used[0].item(), used[-1].item() + 1)


def _multiply(matrix: Tensor | None, x: Tensor, axis: int) -> Tensor:
    """Multiply one axis of ``x`` by a matrix; ``None`` changes nothing."""
    if matrix is None:
        return x
    if axis == x.ndim - 1:
        # One product, where matmul would make one a class of a strided x.
        return (x.reshape(-1, x.shape[-1]) @ matrix.T).unflatten(
            0, x.shape[:-1]
        )
    product = matrix @ x.flatten(axis + 1)
    return product.unflatten(-1, x.shape[axis + 1 :])


class _Computed(torch.autograd.Function):
    """A value of the logits whose gradient was computed along with it."""

    @staticmethod
    def forward(ctx, logits: Tensor, value: Tensor, gradient: Tensor):
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return value.clone()

    @staticmethod
    def backward(ctx, factor: Tensor):
        if torch.is_grad_enabled():
            raise RuntimeError(
                'a loss of upernet_ext can be differentiated once, but '
                'create_graph=True asks for a gradient to differentiate '
                'again; use a loss of torch on resized logits for that'
            )
        (gradient,) = ctx.saved_tensors
        # In float32 until here: a scaled loss of fp16 must not underflow.
        return (gradient * factor).to(ctx.dtype), None, None


@dataclass
class _Evaluation:
    """What the passes over the slabs of one batch have in common."""

    loss: nn.Module
    slabs: Slabs
    labels: Tensor
    weight: Tensor | None
    ignore_index: int
    on_slab: Callable[[Tensor, Tensor], None] | None

    def value(self) -> Tensor:
        """Compute the loss alone."""
        totals = self._pass(lambda _, *args: self.loss.sums(*args))
        return self.loss.value(totals)

    def value_and_gradient(self) -> tuple[Tensor, Tensor]:
        """Compute the loss and its gradient ``(N, K, *s)``."""
        gradient = torch.zeros_like(self.slabs.logits)
        if self.loss.is_mean:
            # d(sum / count) = d(sum) / count: the count may come last.
            first = gradient.new_tensor([[1, 0]]).expand(len(gradient), 2)
            totals = self._pass(self._descend(first, gradient))
            gradient *= self._slope(totals)[0, 0]
        else:
            on_slab, self.on_slab = self.on_slab, None
            totals = self._pass(lambda _, *args: self.loss.sums(*args))
            self.on_slab = on_slab
            self._pass(self._descend(self._slope(totals), gradient))
        return self.loss.value(totals), gradient

    def _descend(self, slope: Tensor, gradient: Tensor) -> Callable:
        """Make a step that adds a slab's gradient along ``slope``."""

        def step(slab: Slab, *args) -> Tensor | None:
            sums, part = self.loss.sums_and_gradient(*args, slope[slab.images])
            self.slabs.down(slab, part, gradient)
            return sums

        return step

    def _slope(self, totals: Tensor) -> Tensor:
        """Differentiate the value with respect to the sums."""
        with torch.enable_grad():
            totals = totals.clone().requires_grad_()
            return torch.autograd.grad(self.loss.value(totals), totals)[0]

    def _pass(self, step: Callable) -> Tensor | None:
        """Take a step a slab; add up the sums it returns, image by image."""
        totals = None
        for slab in self.slabs:
            sums = self._step(step, slab)
            if sums is None:
                continue
            if totals is None:
                totals = sums.new_zeros(len(self.labels), sums.shape[1])
            totals[slab.images] += sums
        return totals

    def _step(self, step: Callable, slab: Slab) -> Tensor | None:
        rank = len(self.slabs.size)
        logits, labels = self.slabs.up(slab), slab.of(self.labels, rank)
        if self.on_slab is not None:
            self.on_slab(logits, labels)
        weight = self.weight
        if weight is not None:
            weight = slab.of(weight, rank)
        return step(slab, logits, labels, self.ignore_index, weight)


@torch.compiler.disable
def slab_loss(
    loss: nn.Module,
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int,
    align_corners: bool,
    weight: Tensor | None = None,
    on_slab: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """Compute a loss at the labels' size without logits of that size.

    Its gradient exists already when this returns: it can be taken any number
    of times, but not differentiated.

    Not run on an accelerator yet.

    Args:
        loss: A ``SegmentationLoss``.
        logits: ``(N, K, *s)``.
        labels: ``(N, *S)`` or ``(N, K, *S)``.
        ignore_index: Label of what does not count.
        align_corners: How the logits are resized to the labels.
        weight: ``(N, *S)``, a factor a pixel.
        on_slab: Is shown each slab's logits ``(n, K, P)``, which it must not
            change or keep, and labels ``(n, P)`` or ``(n, K, P)``, once.

    Returns:
        A scalar, of float32 or of the logits' dtype if that is wider.
    """
    size = labels.shape[2 - logits.ndim :]
    slabs = Slabs(logits, size, align_corners)
    evaluation = _Evaluation(
        loss, slabs, labels, weight, ignore_index, on_slab
    )
    with_gradient = torch.is_grad_enabled() and logits.requires_grad
    with torch.no_grad(), no_autocast(logits.device):
        if not with_gradient:
            return evaluation.value()
        value, gradient = evaluation.value_and_gradient()
    return _Computed.apply(logits, value, gradient)
