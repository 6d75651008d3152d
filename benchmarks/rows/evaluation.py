"""Counting what an evaluation needs of one image."""

import torch
from mmseg.evaluation import IoUMetric as MMSegIoUMetric

from upernet_ext.evaluation import IoUMetric

from ..row import Call, Case, Goals, Peer, Results, Row
from .heads import CLASSES


def _call(case: Case, metric: MMSegIoUMetric) -> Call:
    metric.dataset_meta = dict(classes=[str(i) for i in range(CLASSES)])
    truth = case.labels(1, *case['size'], num_classes=CLASSES)
    wrong = torch.rand(truth.shape, generator=torch.Generator().manual_seed(1))
    wrong = (wrong < 0.3).to(truth.device)
    found = torch.where(wrong | (truth == 255), 7, truth)
    sample = dict(pred_sem_seg=dict(data=found), gt_sem_seg=dict(data=truth))

    def call() -> Results:
        metric.results.clear()
        metric.process({}, [sample])
        (areas,) = metric.results
        names = ('intersection', 'union', 'prediction', 'truth')
        return dict(counts=dict(zip(names, areas, strict=True)))

    return call


def _ours(case: Case) -> Call:
    return _call(case, IoUMetric())


def _mmseg(case: Case) -> Call:
    return _call(case, MMSegIoUMetric(prefix='theirs'))


ROWS = (
    Row(
        'miou',
        'mIoU update, 683 x 1024, 150 classes',
        _ours,
        (Peer('mmseg', _mmseg, Goals(time=0.10)),),
        reduced=dict(size=(683, 1024)),
        full=dict(size=(683, 1024)),
        floating=False,
        torch_only=False,
    ),
)
