"""Overlap of predicted and true labels, for any rank and any head."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.logging import MMLogger, print_log
from mmseg.evaluation import IoUMetric as _IoUMetric
from prettytable import PrettyTable

from ..registry import METRICS
from ..structures import IGNORE_INDEX

BYTES = 256
# Indices of all voxels of a volume would be 8 bytes each; and OpenCV counts
# in float32, which is exact up to 2**24.
PIXELS_AT_A_TIME = 2**20


@METRICS.register_module()
class IoUMetric(_IoUMetric):
    """mmseg's IoU metric for softmax, one foreground class and multi-label.

    Pixels or voxels labelled ``ignore_index`` count nowhere. A class that is
    neither predicted nor labelled anywhere is NaN, and left out of the means.

    - softmax: as mmseg's, number for number.
    - one name in ``dataset_meta['classes']``: labels are 0 (background) and
      1. Table and means are of the foreground alone, ``aAcc`` is over both.
    - ``multi_label``: each class is measured on its own, as foreground;
      ``aAcc`` is over all decisions of all classes.

    Counts are integers and the numbers are not rounded. After
    ``compute_metrics``, ``per_class`` holds each class's numbers, in percent:
    ``{'road': {'IoU': 91.2, 'Acc': 95.5}, ...}``.

    Args:
        ignore_index: The label left out.
        iou_metrics: Some of ``'mIoU'`` (with ``mAcc``), ``'mDice'`` (with
            ``mAcc``), ``'mFscore'`` (with ``mPrecision`` and ``mRecall``).
        multi_label: Whether masks have one 0/1 channel a class. ``None``: as
            ``dataset_meta['multi_label']`` says, else not.
        nan_to_num: A number for NaN. ``None`` keeps NaN.
        beta: Weight of recall in the F-score.
        collect_device: Where ranks exchange results: ``'cpu'`` or ``'gpu'``.
        output_dir: Where to write predictions as PNG. ``None``: nowhere.
        format_only: Whether to write them only, without truth.
        prefix: Put before the names of the metrics.
    """

    # None would make mmengine warn; the metrics' names say enough.
    default_prefix = ''

    def __init__(
        self,
        ignore_index: int = IGNORE_INDEX,
        iou_metrics: str | Sequence[str] = ('mIoU',),
        *,
        multi_label: bool | None = None,
        nan_to_num: float | None = None,
        beta: float = 1,
        collect_device: str = 'cpu',
        output_dir: str | None = None,
        format_only: bool = False,
        prefix: str | None = None,
    ) -> None:
        names = [iou_metrics] if isinstance(iou_metrics, str) else iou_metrics
        known = ('mIoU', 'mDice', 'mFscore')
        unknown = sorted(set(names) - set(known))
        if unknown or not names:
            raise ValueError(
                f'IoUMetric: iou_metrics must be of {known}, got {iou_metrics}'
            )
        super().__init__(
            ignore_index=ignore_index,
            iou_metrics=list(names),
            nan_to_num=nan_to_num,
            beta=beta,
            collect_device=collect_device,
            output_dir=output_dir,
            format_only=format_only,
            prefix=prefix,
        )
        if multi_label and output_dir is not None:
            raise ValueError(
                'IoUMetric writes one label a pixel; several classes a pixel '
                'are written by tools/test.py --out'
            )
        self.multi_label = multi_label
        self.per_class: dict[str, dict[str, float]] = {}

    def process(
        self, data_batch: dict, data_samples: Sequence[dict[str, Any]]
    ) -> None:
        """Count one batch.

        Args:
            data_batch: Not used.
            data_samples: Dictionaries with ``pred_sem_seg`` and
                ``gt_sem_seg``, each with ``data`` of ``(1, *S)``, or
                ``(K, *S)`` with ``multi_label``.

        Raises:
            ValueError: Truth is missing, the shapes differ, or a value is no
                class; the message names the image.
        """
        for sample in data_samples:
            if not self.format_only and 'gt_sem_seg' not in sample:
                raise ValueError(
                    f'{sample.get("img_path")}: no truth to compare with; '
                    'give the dataset its masks and load them with LoadMask, '
                    'or set format_only=True'
                )
            try:
                super().process(data_batch, [sample])
            except ValueError as error:
                raise ValueError(
                    f'{sample.get("img_path")}: {error}'
                ) from error

    def intersect_and_union(
        self,
        pred_label: torch.Tensor,
        label: torch.Tensor,
        num_classes: int,
        ignore_index: int,
    ) -> torch.Tensor:
        """Count the pixels of one sample, by label.

        Args:
            pred_label: Predicted labels, any shape.
            label: True labels, same shape.
            num_classes: Number of class names.
            ignore_index: The label left out.

        Returns:
            Areas of intersection, union, prediction and truth, in pixels,
            int64 ``(4, labels)``, on the device of the labels. With one class
            there are two entries, background and foreground; with
            ``multi_label`` ``2 K``, first what is not of each class.

        Raises:
            ValueError: The shapes differ, or a value is no class.
        """
        if pred_label.shape != label.shape:
            raise ValueError(
                f'the prediction has the shape {tuple(pred_label.shape)}, '
                f'the truth {tuple(label.shape)}'
            )
        if self._is_multi_label():
            planes = (num_classes, -1)
            pairs = zip(
                pred_label.reshape(planes), label.reshape(planes), strict=True
            )
            confusions = [
                _confusion(pred, truth, 2, ignore_index)
                for pred, truth in pairs
            ]
            areas = torch.stack([_areas(c) for c in confusions], dim=-1)
            return areas.flatten(1)
        return _areas(
            _confusion(pred_label, label, max(num_classes, 2), ignore_index)
        )

    def evaluate(self, size: int) -> dict[str, float]:
        """Compute the metrics from the counts of all ranks.

        The counts lie where the predictions did, and leave it here, together.

        Args:
            size: Samples of the dataset.
        """
        if self.results and not self.format_only:
            self.results = list(torch.stack(self.results).cpu())
        return super().evaluate(size)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Sum the counts, log the table per class, and average.

        Args:
            results: What ``process`` counted, of all ranks.

        Returns:
            ``aAcc`` and the mean of each column, ``mIoU``, ``mAcc``, ..., in
            percent, not rounded; empty with ``format_only``.
        """
        if self.format_only:
            return super().compute_metrics(results)
        totals = [sum(areas).double() for areas in zip(*results, strict=True)]
        columns = self.total_area_to_metrics(
            *totals, self.metrics, self.nan_to_num, self.beta
        )
        metrics = {'aAcc': float(columns.pop('aAcc')) * 100}
        classes = self.dataset_meta['classes']
        columns = {
            name: value[-len(classes) :].astype(np.float64) * 100
            for name, value in columns.items()
        }
        for name, values in columns.items():
            known = values[~np.isnan(values)]
            mean = known.mean() if known.size else np.nan
            metrics[f'm{name}'] = float(mean)
        self.per_class = {
            name: {key: float(v[i]) for key, v in columns.items()}
            for i, name in enumerate(classes)
        }
        table = PrettyTable(['Class', *columns])
        for name, row in self.per_class.items():
            table.add_row([name, *(f'{v:.2f}' for v in row.values())])
        logger = MMLogger.get_current_instance()
        print_log(f'per class results:\n{table}', logger=logger)
        return metrics

    def _is_multi_label(self) -> bool:
        if self.multi_label is None:
            return bool(self.dataset_meta.get('multi_label', False))
        return self.multi_label


def _confusion(
    pred_label: torch.Tensor,
    label: torch.Tensor,
    num_labels: int,
    ignore_index: int,
) -> torch.Tensor:
    """Return the counts ``(true, predicted)``."""
    counts = torch.zeros(
        num_labels, num_labels, dtype=torch.int64, device=label.device
    )
    pairs = zip(
        pred_label.flatten().split(PIXELS_AT_A_TIME),
        label.flatten().split(PIXELS_AT_A_TIME),
        strict=True,
    )
    if not label.numel():
        return counts
    for pred, truth in pairs:
        found = None
        if _is_bytes(pred) and _is_bytes(truth):
            found = _byte_counts(pred, truth, num_labels, ignore_index)
        if found is None:
            found = _pair_counts(pred, truth, num_labels, ignore_index)
        counts += found
    return counts


def _is_bytes(labels: torch.Tensor) -> bool:
    if labels.device.type != 'cpu':
        return False
    if labels.dtype == torch.uint8:
        return True
    low, high = labels.aminmax()
    return low >= 0 and high < BYTES


def _byte_counts(
    pred: torch.Tensor,
    truth: torch.Tensor,
    num_labels: int,
    ignore_index: int,
) -> torch.Tensor | None:
    """Count with OpenCV, which is fastest; ``None`` where it cannot."""
    images = [labels.to(torch.uint8).numpy() for labels in (truth, pred)]
    found = cv2.calcHist(
        images, [0, 1], None, [BYTES, BYTES], [0, BYTES, 0, BYTES]
    )
    if 0 <= ignore_index < BYTES:
        found[ignore_index] = 0
    no_class = found[num_labels:].any() or found[:, num_labels:].any()
    if no_class or num_labels > BYTES:
        return None
    counts = found[:num_labels, :num_labels]
    return torch.from_numpy(counts).long()


def _pair_counts(
    pred: torch.Tensor,
    truth: torch.Tensor,
    num_labels: int,
    ignore_index: int,
) -> torch.Tensor:
    """Count each ``true * num_labels + predicted``; the ignored go behind.

    Raises:
        ValueError: A label that counts is none of ``num_labels``.
    """
    pred, truth = pred.long(), truth.long()
    valid = truth != ignore_index
    known = truth.where(valid, 0)
    ends = torch.stack([*pred.aminmax(), *known.aminmax()]).tolist()
    if min(ends) < 0 or max(ends) >= num_labels:
        _check_labels(pred[valid], truth[valid], num_labels)
    index = known.mul_(num_labels).add_(pred).where(valid, num_labels**2)
    counts = torch.bincount(index, minlength=num_labels**2)
    return counts[: num_labels**2].view(num_labels, num_labels)


def _check_labels(
    pred: torch.Tensor, truth: torch.Tensor, num_labels: int
) -> None:
    for name, values in (('prediction', pred), ('truth', truth)):
        wrong = values[(values < 0) | (values >= num_labels)]
        if wrong.numel():
            raise ValueError(
                f'the {name} has {wrong.numel()} pixels of label '
                f'{int(wrong[0])}; with these classes, labels are 0 to '
                f'{num_labels - 1}'
            )


def _areas(confusion: torch.Tensor) -> torch.Tensor:
    intersect = confusion.diagonal()
    truth, pred = confusion.sum(1), confusion.sum(0)
    return torch.stack([intersect, truth + pred - intersect, pred, truth])
