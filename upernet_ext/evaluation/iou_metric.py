"""Overlap of predicted and true labels, for any rank and any head."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import MMLogger, print_log
from mmseg.evaluation import IoUMetric as _IoUMetric
from prettytable import PrettyTable

from ..registry import METRICS
from ..structures import IGNORE_INDEX


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
    ) -> tuple[torch.Tensor, ...]:
        """Count the pixels of one sample, by label.

        Args:
            pred_label: Predicted labels, any shape.
            label: True labels, same shape.
            num_classes: Number of class names.
            ignore_index: The label left out.

        Returns:
            Areas of intersection, union, prediction and truth, in pixels,
            ``int64``. With one class there are two entries, background and
            foreground; with ``multi_label`` ``2 K``, first what is not of
            each class.

        Raises:
            ValueError: The shapes differ, or a value is no class.
        """
        if pred_label.shape != label.shape:
            raise ValueError(
                f'the prediction has the shape {tuple(pred_label.shape)}, '
                f'the truth {tuple(label.shape)}'
            )
        pred_label, label = pred_label.long(), label.long()
        if self._is_multi_label():
            planes = (num_classes, -1)
            pairs = zip(
                pred_label.reshape(planes), label.reshape(planes), strict=True
            )
            confusions = [
                self._confusion(pred, truth, 2, ignore_index)
                for pred, truth in pairs
            ]
            areas = torch.stack([_areas(c) for c in confusions], dim=-1)
            return tuple(areas.flatten(1))
        confusion = self._confusion(
            pred_label, label, max(num_classes, 2), ignore_index
        )
        return tuple(_areas(confusion))

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

    @staticmethod
    def _confusion(
        pred_label: torch.Tensor,
        label: torch.Tensor,
        num_labels: int,
        ignore_index: int,
    ) -> torch.Tensor:
        """Return the counts ``(true, predicted)``."""
        valid = label != ignore_index
        pred_label, label = pred_label[valid], label[valid]
        for name, values in (('prediction', pred_label), ('truth', label)):
            wrong = values[(values < 0) | (values >= num_labels)]
            if wrong.numel():
                raise ValueError(
                    f'the {name} has {wrong.numel()} pixels of label '
                    f'{int(wrong[0])}; with these classes, labels are 0 to '
                    f'{num_labels - 1}'
                )
        counts = torch.bincount(
            label * num_labels + pred_label, minlength=num_labels**2
        )
        return counts.reshape(num_labels, num_labels).cpu()


def _areas(confusion: torch.Tensor) -> torch.Tensor:
    intersect = confusion.diagonal()
    truth, pred = confusion.sum(1), confusion.sum(0)
    return torch.stack([intersect, truth + pred - intersect, pred, truth])
