"""A model that segments: whole or by windows, augmented, back to the file."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product

import torch
from mmengine.config import ConfigDict
from mmseg.structures import SegDataSample
from torch import Tensor

from ...layers.rank import resize
from ...structures import CaseGeometry, GridData
from .case_labels import case_labels
from .lazy_logits import (
    LazyLogits,
    classes_above,
    largest_class,
    mean_of,
    mean_of_windows,
)
from .sliding_window import (
    Window,
    WindowMean,
    batched,
    gaussian_weight,
    overlap_stride,
    pad_to_window,
    window_slices,
)
from .views import Views

TEST_DEFAULTS = dict(
    mode='whole',
    crop_size=None,
    stride=None,
    overlap=None,
    window_weight=None,
    window_steps=None,
    window_batch=4,
    accumulate='auto',
    keep_logits=False,
    tta=None,
)
_WORDS = dict(
    mode=('whole', 'slide'),
    window_weight=('uniform', 'gaussian'),
    window_steps=('clamped', 'even'),
    accumulate=('auto', 'device', 'cpu'),
)
NO_FLIP: tuple[tuple[int, ...], ...] = ((),)


def filled_test_cfg(test_cfg: Mapping | None, spatial_dims: int) -> ConfigDict:
    """Check ``model.test_cfg``, and fill in what it leaves open.

    Args:
        test_cfg: ``mode``: ``'whole'`` or ``'slide'``.

            Of the windows: ``crop_size`` and ``stride``, in pixels, or
            ``overlap``, the share of a window (0.5); ``window_weight``:
            ``'uniform'`` (images) or ``'gaussian'`` (volumes);
            ``window_steps``: ``'clamped'`` (with uniform) or ``'even'`` (with
            gaussian), see ``sliding_window``; ``window_batch``: windows, or
            slices of a volume, at a time; ``accumulate``: ``'auto'``,
            ``'device'`` or ``'cpu'``, see ``accumulator_device``.

            ``tta``: ``dict(scales=(0.5, 1.0), flip_axes=(-1,))``, see
            ``Views``; ``keep_logits``: put ``seg_logits`` ``(K, *S)`` into
            each sample (mean probabilities where ``tta`` averages these), of
            a case that goes back to its file in the network's grid.
        spatial_dims: 2 or 3, of the network.

    Raises:
        ValueError: An unknown key or word, or sizes that are missing.
    """
    given = dict(test_cfg or {})
    unknown = sorted(set(given) - set(TEST_DEFAULTS))
    if unknown:
        raise ValueError(
            f'model.test_cfg has no key {unknown}; there are '
            f'{sorted(TEST_DEFAULTS)}'
        )
    cfg = ConfigDict({**TEST_DEFAULTS, **given})
    if cfg.window_weight is None:
        cfg.window_weight = 'gaussian' if spatial_dims == 3 else 'uniform'
    if cfg.window_steps is None:
        gaussian = cfg.window_weight == 'gaussian'
        cfg.window_steps = 'even' if gaussian else 'clamped'
    for name, words in _WORDS.items():
        if cfg[name] not in words:
            raise ValueError(
                f'model.test_cfg.{name} must be '
                f'{" or ".join(map(repr, words))}, got {cfg[name]!r}'
            )
    if cfg.mode == 'slide' and not cfg.crop_size:
        raise ValueError(
            "model.test_cfg with mode='slide' needs crop_size and stride, or "
            'crop_size and overlap'
        )
    if cfg.stride is None and cfg.overlap is None:
        cfg.overlap = 0.5
    elif cfg.stride is not None and cfg.overlap is not None:
        raise ValueError(
            f'model.test_cfg.stride={tuple(cfg.stride)} and overlap='
            f'{cfg.overlap} say the same thing twice; remove one'
        )
    return cfg


class PredictingModel:
    """Give a model with ``encode_decode`` everything up to the prediction.

    Needs ``encode_decode``, ``decode_head``, ``align_corners``,
    ``out_channels``, ``spatial_dims``, ``use_sigmoid`` and a ``test_cfg``
    from ``filled_test_cfg``. Where logits come at a lower resolution, it says
    so in ``lazy_logits``.
    """

    def lazy_logits(self, inputs: Tensor) -> LazyLogits:
        """Promise what ``encode_decode`` returns, ``(N, K, *S)``."""
        return LazyLogits.of(self.encode_decode(inputs))

    def inference(
        self,
        inputs: Tensor,
        batch_img_metas: Sequence[dict] | None = None,
        *,
        flips: Sequence[tuple[int, ...]] = NO_FLIP,
    ) -> Tensor:
        """Compute logits ``(N, K, *S)``, whole or by sliding windows.

        Args:
            inputs: ``(N, C, *S)``. A network of images takes volumes too,
                ``S = (D, H, W)``, slice by slice.
            batch_img_metas: Not used.
            flips: Sets of axes; the logits are the mean over the mirrored
                images.
        """
        return self._lazy_inference(inputs, flips).full()

    def slide_inference(
        self,
        inputs: Tensor,
        batch_img_metas: Sequence[dict] | None = None,
        *,
        flips: Sequence[tuple[int, ...]] = NO_FLIP,
    ) -> Tensor:
        """Average the logits of overlapping windows, ``(N, K, *S)``.

        ``window_batch`` windows run at a time; the sums are float32 (or
        float64 as the inputs), wherever ``test_cfg.accumulate`` puts them.
        Arguments as ``inference``.
        """
        return self._lazy_slide(inputs, flips).full()

    def _lazy_inference(
        self, inputs: Tensor, flips: Sequence[tuple[int, ...]] = NO_FLIP
    ) -> LazyLogits:
        in_slices = inputs.ndim - 2 > self.spatial_dims
        if self.test_cfg.mode == 'slide' or in_slices:
            return self._lazy_slide(inputs, flips)
        return self._mean_of_flips(inputs, flips)

    def _lazy_slide(
        self, inputs: Tensor, flips: Sequence[tuple[int, ...]]
    ) -> LazyLogits:
        cfg = self.test_cfg
        content: Window = tuple(slice(size) for size in inputs.shape[2:])
        if cfg.mode == 'slide' and cfg.window_steps == 'even':
            inputs, inner = pad_to_window(inputs, cfg.crop_size)
            content = (*content[: -len(inner)], *inner)
        windows = self._windows(inputs.shape[2:])
        mean = self._window_mean(inputs, windows)
        runs = self._run_windows(inputs, windows, flips)
        return mean_of_windows(runs, mean).crop(content)

    def _run_windows(
        self,
        inputs: Tensor,
        windows: Sequence[Window],
        flips: Sequence[tuple[int, ...]],
    ) -> Iterator[LazyLogits]:
        """Yield each window's logits ``(N, K, *window)``."""
        for chunk in batched(windows, self.test_cfg.window_batch):
            crops = [inputs[(..., *window)] for window in chunk]
            # Nothing but the iterator holds the batch: it ends with its last.
            yield from self._run(torch.cat(crops), flips).split(len(inputs))

    def _run(
        self, crops: Tensor, flips: Sequence[tuple[int, ...]]
    ) -> LazyLogits:
        """Run windows; the one slice of a window is an axis of size 1."""
        slices = crops.ndim - 2 - self.spatial_dims
        logits = self._mean_of_flips(crops.flatten(2, 2 + slices), flips)
        grid = crops.shape[2:]
        return logits.each(lambda x: x.reshape(*x.shape[:2], *grid), grid)

    def _windows(self, grid: Sequence[int]) -> list[Window]:
        """List the windows of a grid: of each slice, where it has more."""
        cfg = self.test_cfg
        slices = len(grid) - self.spatial_dims
        size = grid[slices:]
        if cfg.mode == 'slide':
            stride = cfg.stride or overlap_stride(
                cfg.crop_size, cfg.overlap, steps=cfg.window_steps
            )
            boxes = window_slices(
                size, cfg.crop_size, stride, steps=cfg.window_steps
            )
        else:
            boxes = [tuple(slice(0, edge) for edge in size)]
        single = product(
            *([slice(i, i + 1) for i in range(n)] for n in grid[:slices])
        )
        return [(*one, *box) for one in single for box in boxes]

    def _window_mean(
        self, inputs: Tensor, windows: Sequence[Window]
    ) -> WindowMean:
        cfg = self.test_cfg
        weight = None
        if cfg.mode == 'slide' and cfg.window_weight == 'gaussian':
            edges = [axis.stop - axis.start for axis in windows[0]]
            weight = gaussian_weight(edges[-self.spatial_dims :])
        return WindowMean(
            windows,
            inputs.shape[2:],
            weight,
            dtype=torch.promote_types(inputs.dtype, torch.float32),
            device=inputs.device,
            accumulate=cfg.accumulate,
        )

    def _mean_of_flips(
        self, inputs: Tensor, flips: Sequence[tuple[int, ...]]
    ) -> LazyLogits:
        """Average the logits of mirrored images, as they are."""
        if flips == NO_FLIP:
            return self.lazy_logits(inputs)
        views = (
            self.lazy_logits(inputs.flip(axes)).flip(axes) for axes in flips
        )
        return mean_of(views, len(flips))

    @torch.no_grad()
    def predict(
        self,
        inputs: Tensor,
        data_samples: Sequence[SegDataSample] | None = None,
    ) -> list[SegDataSample]:
        """Segment a batch.

        Args:
            inputs: ``(N, C, *S)``, normalised and padded. A network of images
                takes volumes ``(N, C, D, H, W)`` too, slice by slice.
            data_samples: Their ``img_shape`` is what is not padding, and
                their ``ori_shape`` the size of the result; by default ``S``.
                With ``crop_box`` and ``axes`` too the result goes back to
                the grid of the file; see ``CaseGeometry``.

        Returns:
            The samples with ``pred_sem_seg``: ``(1, *ori_shape)`` class
            indices (0 or 1 for a single class), or ``(K, *ori_shape)`` of 0
            and 1; and with ``seg_logits`` where ``test_cfg.keep_logits``.
        """
        if data_samples is None:
            data_samples = [SegDataSample() for _ in inputs]
        looks = Views.from_cfg(self.test_cfg.tta, self.spatial_dims)
        if looks.single:
            scores = self._lazy_inference(inputs).split(1)
        else:
            scores = self._mean_of_views(inputs, data_samples, looks)
        averaged = not looks.single and looks.average == 'probabilities'
        for score, sample in zip(scores, data_samples, strict=True):
            self._decide(score, sample, averaged=averaged)
        return list(data_samples)

    def _mean_of_views(
        self, inputs: Tensor, samples: Sequence[SegDataSample], looks: Views
    ) -> Iterator[LazyLogits]:
        """Yield each image's mean over its views.

        Logits are ``(1, K, *img_shape)``: mirrored images are averaged window
        by window, so that one sum of the whole grid is held. Probabilities
        are ``(1, K, *ori_shape)``, or ``(1, K, *img_shape)`` where a case
        goes back to its file.
        """
        as_logits = looks.average == 'logits'
        inside, outside = NO_FLIP, looks.flips
        if as_logits:
            inside, outside = outside, inside
        for image, sample in zip(inputs, samples, strict=True):
            image = image[None]
            image = image[(..., *_content(image.shape[2:], sample))]
            size = image.shape[2:]
            if not (as_logits or 'crop_box' in sample.metainfo):
                size = sample.metainfo.get('ori_shape', size)
            views = list(product(outside, looks.scales))
            scores = (
                self._lazy_inference(
                    resize(image, self._scaled(image, scale)).flip(axes),
                    inside,
                )
                .flip(axes)
                .resize(size, self.align_corners)
                for axes, scale in views
            )
            if not as_logits:
                scores = map(self._probabilities, scores)
            yield mean_of(scores, len(views))

    def _scaled(self, image: Tensor, scale: float) -> list[int]:
        """Scale the axes that the network sees."""
        grid = image.shape[2:]
        slices = len(grid) - self.spatial_dims
        scaled = [max(1, round(s * scale)) for s in grid[slices:]]
        return [*grid[:slices], *scaled]

    def _probabilities(self, logits: LazyLogits) -> LazyLogits:
        if self.use_sigmoid:
            return logits.each(torch.sigmoid, logits.grid)
        # The one step that needs all classes of a pixel.
        return LazyLogits.of(logits.full().softmax(1))

    def _decide(
        self, scores: LazyLogits, sample: SegDataSample, *, averaged: bool
    ) -> None:
        """Write the prediction, at the original size, into the sample.

        Args:
            scores: Logits ``(1, K, *S)`` of the padded image; or, averaged,
                probabilities ``(1, K, *ori_shape)``. Of a case that goes back
                to its file both are in the network's grid, where
                ``seg_logits`` stay.
            sample: Gets ``pred_sem_seg``.
            averaged: Which of the two.
        """
        geometry = CaseGeometry.from_metainfo(sample.metainfo)
        threshold = self.decode_head.threshold
        if not averaged:
            scores = scores.crop(_content(scores.grid, sample))
            if geometry is None:
                scores = self._at_original_size(scores, sample)
        if self.test_cfg.keep_logits:
            full = scores.full()
            sample.seg_logits = GridData(data=full[0])
            scores = LazyLogits.of(full)
        if geometry is not None:
            limit = threshold if averaged else _logit(threshold)
            labels = case_labels(
                scores,
                geometry,
                threshold=limit if self.use_sigmoid else None,
            )[None]
        elif self.use_sigmoid:
            if not averaged:
                scores = self._probabilities(scores)
            labels = classes_above(scores, threshold).long()
        else:
            labels = largest_class(scores).long()
        sample.pred_sem_seg = GridData(data=labels[0])

    def _at_original_size(
        self, logits: LazyLogits, sample: SegDataSample
    ) -> LazyLogits:
        if sample.metainfo.get('flip'):
            axis = {'horizontal': -1, 'vertical': -2}
            logits = logits.flip([axis[sample.flip_direction]])
        size = tuple(sample.metainfo.get('ori_shape', logits.grid))
        return logits.resize(size[: len(logits.grid)], self.align_corners)


def _content(grid: Sequence[int], sample: SegDataSample) -> Window:
    """Where in the grid there is no padding."""
    size = sample.metainfo.get('img_shape', grid)[: len(grid)]
    return tuple(slice(edge) for edge in size)


def _logit(probability: float) -> float:
    return torch.tensor(probability, dtype=torch.float64).logit().item()
