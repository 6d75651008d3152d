"""Overlap and distance, a case and a class at a time, as in medicine."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger, print_log
from prettytable import PrettyTable

from ..datasets.volumes import Plan
from ..datasets.volumes.labels import Labels
from ..registry import METRICS
from ..structures import IGNORE_INDEX
from .label_files import to_label_map, write_prediction
from .summary import class_means, nan_mean, overlap, write_summary
from .surfaces import hausdorff95, surface_dice, surface_distances

KNOWN = ('Dice', 'IoU', 'HD95', 'NSD')
DISTANCES = ('HD95', 'NSD')


@METRICS.register_module()
class CaseMetric(BaseMetric):
    """Dice, IoU, HD95 and NSD of each case and class, then their means.

    The mean of a class is over its cases, the mean of all over the classes.
    Everything is in the grid of the file, with its spacing in mm.

    - ``Dice``, ``IoU``: 0..1, as nnU-Net writes them, not percent.
    - ``HD95``: mm, the larger directed 95th percentile of the distances
      between surface voxels.
    - ``NSD``: 0..1, the share of both surfaces within ``nsd_tolerance`` mm.

    As in nnU-Net, a class that is neither predicted nor labelled in a case is
    NaN there, and left out of the means; where only one of the two is empty,
    missed or hallucinated, Dice, IoU and NSD are 0. HD95 is then the diagonal
    of the image, and ``HD95_one_empty`` says of how many case-class pairs.

    Classes that exclude each other start with background, label 0, which is
    left out; a single class is label 1. Of a multi-label model each class is
    measured. Regions of an nnU-Net dataset are measured, as nnU-Net does,
    in the one label map that is written of them, by regions_class_order.

    After ``compute_metrics``, ``per_class`` holds each class's means:
    ``{'tumour': {'Dice': 0.91, 'HD95': 2.2, ...}, ...}``.

    Args:
        case_metrics: Which to compute. Distances take longest: give
            ``('Dice',)`` to the validations during training.
        nsd_tolerance: In mm.
        ignore_index: Voxels of this label count nowhere.
        multi_label: Whether masks have one 0/1 channel a class. ``None``: as
            ``dataset_meta['multi_label']`` says, else not.
        output_dir: Where to write each volume's prediction,
            ``{case}.nii.gz`` (or as its image's file ends), and
            ``summary.json``, nnU-Net's. ``None``: nowhere.
        format_only: Whether to write predictions only, without truth.
        collect_device: Where ranks exchange results: ``'cpu'`` or ``'gpu'``.
        prefix: Put before the names of the metrics.
    """

    default_prefix = ''

    def __init__(
        self,
        case_metrics: str | Sequence[str] = ('Dice', 'HD95', 'NSD'),
        *,
        nsd_tolerance: float = 1.0,
        ignore_index: int = IGNORE_INDEX,
        multi_label: bool | None = None,
        output_dir: str | Path | None = None,
        format_only: bool = False,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        single = isinstance(case_metrics, str)
        metrics = (case_metrics,) if single else tuple(case_metrics)
        if not metrics or set(metrics) - set(KNOWN):
            raise ValueError(
                f'CaseMetric: case_metrics must be of {KNOWN}, got {metrics}'
            )
        if nsd_tolerance < 0:
            raise ValueError(
                f'CaseMetric: nsd_tolerance is in mm, got {nsd_tolerance}'
            )
        if format_only and output_dir is None:
            raise ValueError(
                'CaseMetric: format_only=True writes predictions and needs '
                'output_dir, where to'
            )
        self.metrics = metrics
        self.nsd_tolerance = nsd_tolerance
        self.ignore_index = ignore_index
        self.multi_label = multi_label
        self.output_dir = None if output_dir is None else Path(output_dir)
        self.format_only = format_only
        self.per_class: dict[str, dict[str, float]] = {}

    def process(
        self, data_batch: dict, data_samples: Sequence[dict[str, Any]]
    ) -> None:
        """Measure the cases of a batch.

        Args:
            data_batch: Not used.
            data_samples: Dictionaries with ``pred_sem_seg`` and
                ``gt_sem_seg``, each with ``data`` of ``(1, *S)`` or
                ``(K, *S)``; ``ori_spacing`` in mm, or ``spacing``, which
                images may lack: pixels then.

        Raises:
            ValueError: Truth or spacing is missing, the shapes differ, or a
                value is no class; the message names the file.
        """
        for sample in data_samples:
            source = sample.get('img_path')
            try:
                self.results.append(self._measure(sample))
            except ValueError as error:
                if str(source) in str(error):
                    raise
                raise ValueError(f'{source}: {error}') from error

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Average, log the table per class and write ``summary.json``.

        Args:
            results: What ``process`` measured, of all ranks.

        Returns:
            The mean of each metric, and ``HD95_one_empty``; empty with
            ``format_only``.
        """
        if self.format_only:
            return {}
        keys = dict(zip(self._keys(), self._names(), strict=True))
        means = class_means([case['metrics'] for case in results])
        one_empty = {
            key: sum(_one_empty(case['metrics'][key]) for case in results)
            for key in keys
        }
        self.per_class = {
            name: {metric: means[key][metric] for metric in self.metrics}
            for key, name in keys.items()
        }
        metrics = {
            metric: nan_mean([row[metric] for row in self.per_class.values()])
            for metric in self.metrics
        }
        if 'HD95' in self.metrics:
            metrics['HD95_one_empty'] = sum(one_empty.values())
            for key, name in keys.items():
                self.per_class[name]['HD95_one_empty'] = one_empty[key]
        self._log_table()
        if self.output_dir is not None:
            write_summary(
                self.output_dir / 'summary.json',
                results,
                classes=keys,
                HD95_one_empty=one_empty,
                NSD_tolerance_mm=self.nsd_tolerance,
            )
        return metrics

    def _measure(self, sample: Mapping[str, Any]) -> dict[str, Any]:
        """Return a case of summary.json; write its prediction."""
        prediction = _field(sample, 'pred_sem_seg')
        result = dict(
            reference_file=sample.get('seg_map_path'),
            prediction_file=self._write(sample, prediction),
        )
        if self.format_only:
            return result
        if 'gt_sem_seg' not in sample:
            raise ValueError(
                'no truth to compare with; give the dataset its labels, or '
                'predict only: tools/predict.py, or format_only=True'
            )
        truth = _field(sample, 'gt_sem_seg')
        if prediction.shape != truth.shape:
            raise ValueError(
                f'the prediction has the shape {prediction.shape}, the truth '
                f'{truth.shape}'
            )
        self._check(prediction, 'prediction')
        self._check(truth[truth != self.ignore_index], 'truth')
        spacing = self._spacing(sample, truth.ndim - 1)
        masks = zip(
            self._keys(),
            self._masks(self._as_written(prediction)),
            self._masks(truth),
            self._masks(truth, ignored=True),
            strict=True,
        )
        result['metrics'] = {
            key: self._measure_class(pred, ref, ignored, spacing)
            for key, pred, ref, ignored in masks
        }
        return result

    def _measure_class(
        self,
        prediction: np.ndarray,
        truth: np.ndarray,
        ignored: np.ndarray,
        spacing: Sequence[float] | None,
    ) -> dict[str, float]:
        """Compare two masks ``(*S)``."""
        num_ignored = int(np.count_nonzero(ignored))
        if num_ignored:
            prediction = prediction & ~ignored
        numbers = overlap(prediction, truth, truth.size - num_ignored)
        if spacing is None:
            return numbers
        if numbers['n_pred'] and numbers['n_ref']:
            distances = surface_distances(
                prediction,
                truth,
                spacing,
                ignored=ignored if num_ignored else None,
            )
            hd95 = hausdorff95(distances)
            nsd = surface_dice(distances, self.nsd_tolerance)
        elif _one_empty(numbers):
            diagonal = np.multiply(truth.shape, spacing)
            hd95, nsd = float(np.linalg.norm(diagonal)), 0.0
        else:
            hd95 = nsd = np.nan
        return dict(numbers, HD95=hd95, NSD=nsd)

    def _write(
        self, sample: Mapping[str, Any], prediction: np.ndarray
    ) -> str | None:
        if self.output_dir is None or 'img_paths' not in sample:
            return None
        path = write_prediction(
            self.output_dir / sample['case'],
            prediction,
            like=sample['img_paths'][0],
            regions_class_order=self.dataset_meta.get('regions_class_order'),
        )
        return str(path)

    def _spacing(
        self, sample: Mapping[str, Any], rank: int
    ) -> tuple[float, ...] | None:
        """Return the distance of voxels in mm; ``None`` if not needed."""
        if not set(self.metrics) & set(DISTANCES):
            return None
        spacing = sample.get('ori_spacing') or sample.get('spacing')
        if spacing is None and rank == 2:
            return (1.0, 1.0)
        if spacing is None or len(spacing) != rank:
            raise ValueError(
                f'distances in mm need ori_spacing, {rank} numbers, in the '
                f"sample's metainfo, got {spacing}; load volumes with "
                "upernet_ext.LoadCase, or set case_metrics=('Dice',)"
            )
        return tuple(float(distance) for distance in spacing)

    def _masks(
        self, labels: np.ndarray, *, ignored: bool = False
    ) -> Iterator[np.ndarray]:
        """Yield where each class is, or where it is ignored: ``(*S)``."""
        if self._is_multi_label():
            value = self.ignore_index if ignored else 1
            yield from (plane == value for plane in labels)
            return
        for label in range(1, self._num_labels()):
            yield labels[0] == (self.ignore_index if ignored else label)

    def _as_written(self, prediction: np.ndarray) -> np.ndarray:
        """Turn predicted regions ``(K, *S)`` into those of their label map."""
        labels = self._labels()
        if labels is None or not labels.multi_label:
            return prediction
        merged = to_label_map(prediction, labels.regions_class_order)
        return labels.label_sets().T[:, merged]

    def _check(self, values: np.ndarray, name: str) -> None:
        """Refuse values that are no class."""
        top = 1 if self._is_multi_label() else self._num_labels() - 1
        if values.size and not 0 <= values.min() <= values.max() <= top:
            raise ValueError(
                f'the {name} has labels {values.min()} to {values.max()}; '
                f'with these classes, labels are 0 to {top}'
            )

    def _names(self) -> list[str]:
        """Name the classes that are measured."""
        classes = list(self.dataset_meta['classes'])
        if self._is_multi_label() or len(classes) == 1:
            return classes
        return classes[1:]

    def _keys(self) -> list[str]:
        """Return nnU-Net's keys: a label, or a region's ``'(1, 2)'``."""
        labels = self._labels()
        if labels is None or labels.regions is None:
            return [str(i + 1) for i in range(len(self._names()))]
        return [
            str(region[0]) if len(region) == 1 else str(region)
            for region in labels.regions
        ]

    def _num_labels(self) -> int:
        return max(len(self.dataset_meta['classes']), 2)

    def _labels(self) -> Labels | None:
        plan = self.dataset_meta.get('plan')
        return None if plan is None else Plan.from_dict(plan).labels

    def _is_multi_label(self) -> bool:
        if self.multi_label is None:
            return bool(self.dataset_meta.get('multi_label', False))
        return self.multi_label

    def _log_table(self) -> None:
        units = dict(
            HD95='HD95 (mm)',
            NSD=f'NSD ({self.nsd_tolerance:g} mm)',
            HD95_one_empty='one empty',
        )
        names = list(next(iter(self.per_class.values())))
        table = PrettyTable(['Class', *(units.get(n, n) for n in names)])
        for name, row in self.per_class.items():
            cells = [
                f'{value:.4f}' if isinstance(value, float) else str(value)
                for value in row.values()
            ]
            table.add_row([name, *cells])
        logger = MMLogger.get_current_instance()
        print_log(f'per class results:\n{table}', logger=logger)


def _field(sample: Mapping[str, Any], name: str) -> np.ndarray:
    return np.asarray(torch.as_tensor(sample[name]['data']).cpu())


def _one_empty(numbers: Mapping[str, float]) -> bool:
    return (numbers['n_pred'] == 0) != (numbers['n_ref'] == 0)
