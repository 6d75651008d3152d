"""nnU-Net's summary.json: the numbers of every case, and their means."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.volumes.shared_work import complete_or_absent

# metric -> number, of one class.
Numbers = Mapping[str, float]


def overlap(
    prediction: np.ndarray, truth: np.ndarray, num_valid: int
) -> dict[str, float]:
    """Count the voxels of two masks.

    Args:
        prediction: ``(*S)`` bool, false where ignored.
        truth: ``(*S)`` bool, likewise.
        num_valid: How many voxels are not ignored.

    Returns:
        What nnU-Net's ``compute_metrics`` measures of a class: ``Dice`` and
        ``IoU``, in 0..1 and NaN where both masks are empty, and the counts.
    """
    tp = int(np.count_nonzero(prediction & truth))
    n_pred = int(np.count_nonzero(prediction))
    n_ref = int(np.count_nonzero(truth))
    union = n_pred + n_ref - tp
    return dict(
        Dice=2 * tp / (n_pred + n_ref) if union else np.nan,
        IoU=tp / union if union else np.nan,
        FP=n_pred - tp,
        TP=tp,
        FN=n_ref - tp,
        TN=num_valid - union,
        n_pred=n_pred,
        n_ref=n_ref,
    )


def class_means(
    cases: Sequence[Mapping[str, Numbers]],
) -> dict[str, dict[str, float]]:
    """Average over cases, leaving NaN out: class -> metric -> mean."""
    return {
        name: {
            metric: nan_mean([case[name][metric] for case in cases])
            for metric in numbers
        }
        for name, numbers in cases[0].items()
    }


def foreground_mean(means: Mapping[str, Numbers]) -> dict[str, float]:
    """Average the means of the classes, leaving NaN out.

    nnU-Net's is NaN when one of them is, of a class that is nowhere.
    """
    metrics = next(iter(means.values()))
    return {m: nan_mean([row[m] for row in means.values()]) for m in metrics}


def nan_mean(values: Sequence[float]) -> float:
    """Average what is not NaN; NaN of nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Mean of empty slice')
        return float(np.nanmean(np.asarray(values, np.float64)))


def write_summary(
    path: Path, cases: Sequence[Mapping[str, Any]], **facts: Any
) -> None:
    """Write summary.json; it appears when it is complete.

    The layout is that of nnU-Net's ``save_summary_json``
    (nnunetv2/evaluation/evaluate_predictions.py), with more metrics; NaN is
    written as ``NaN``, which Python reads.

    Args:
        path: The file.
        cases: ``reference_file``, ``prediction_file`` and ``metrics``, label
            -> metric -> number, each.
        **facts: More to write: there is no such key in nnU-Net's.
    """
    means = class_means([case['metrics'] for case in cases])
    content = dict(
        foreground_mean=foreground_mean(means),
        mean=means,
        metric_per_case=list(cases),
        **facts,
    )
    with complete_or_absent(path) as partial:
        partial.write_text(json.dumps(content, indent=4) + '\n')
