import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.evaluator import Evaluator
from mmseg.evaluation import IoUMetric as Reference
from mmseg.structures import SegDataSample
from PIL import Image

from upernet_ext.evaluation import IoUMetric, iou_metric
from upernet_ext.structures import GridData

ALL = ['mIoU', 'mDice', 'mFscore']


def evaluate(pairs, classes, *, metric=IoUMetric, **options):
    metric = metric(**options)
    metric.dataset_meta = dict(classes=classes)
    for pred, truth in pairs:
        sample = SegDataSample(metainfo=dict(img_path='a/b.png'))
        sample.pred_sem_seg = GridData(data=torch.as_tensor(pred))
        sample.gt_sem_seg = GridData(data=torch.as_tensor(truth))
        metric.process({}, [sample.to_dict()])
    return metric, metric.compute_metrics(metric.results)


def random_pairs(num_labels, *, shape=(1, 9, 11), count=3, seed=0):
    rng = np.random.default_rng(seed)
    labels = [*range(num_labels), 255]
    return [
        (
            rng.integers(0, num_labels, shape).astype(np.uint8),
            rng.choice(labels, shape).astype(np.int64),
        )
        for _ in range(count)
    ]


def confusion_matrix(pairs, num_labels):
    """Count pixel by pixel."""
    counts = np.zeros((num_labels, num_labels))
    for pred, truth in pairs:
        for p, t in zip(np.ravel(pred), np.ravel(truth), strict=True):
            if t != 255:
                counts[t, p] += 1
    return counts


@settings(max_examples=40, deadline=None)
@given(
    num_classes=st.integers(2, 7),
    seed=st.integers(0, 2**16),
    absent=st.booleans(),
    shape=st.sampled_from([(1, 5, 6), (1, 3, 4, 5)]),
)
def test_softmax_is_mmsegs_number_for_number(num_classes, seed, absent, shape):
    pairs = random_pairs(num_classes - absent, shape=shape, seed=seed)
    classes = [f'c{i}' for i in range(num_classes)]
    metric, metrics = evaluate(pairs, classes, iou_metrics=ALL)
    areas = [
        Reference.intersect_and_union(
            torch.as_tensor(p), torch.as_tensor(t), num_classes, 255
        )
        for p, t in pairs
    ]
    columns = Reference.total_area_to_metrics(
        *(sum(a) for a in zip(*areas, strict=True)), ALL
    )
    assert metrics['aAcc'] == pytest.approx(
        float(columns.pop('aAcc')) * 100, rel=1e-6
    )
    for name, values in columns.items():
        found = [metric.per_class[c][name] for c in classes]
        np.testing.assert_allclose(found, values * 100, rtol=1e-6)
        assert metrics[f'm{name}'] == pytest.approx(
            np.nanmean(values) * 100, rel=1e-6
        )


def test_mean_is_what_mmseg_reports_but_not_rounded():
    pairs = random_pairs(5)
    classes = list('abcde')
    _, expected = evaluate(pairs, classes, metric=Reference, iou_metrics=ALL)
    _, metrics = evaluate(pairs, classes, iou_metrics=ALL)
    assert metrics.keys() == expected.keys()
    for name, value in metrics.items():
        assert round(value, 2) == pytest.approx(expected[name], abs=0.0101)
        assert round(value, 2) != value


def test_softmax_is_the_confusion_matrix():
    pairs = random_pairs(4)
    counts = confusion_matrix(pairs, 4)
    iou = counts.diagonal() / (
        counts.sum(0) + counts.sum(1) - counts.diagonal()
    )
    _, metrics = evaluate(pairs, list('abcd'))
    assert metrics['mIoU'] == pytest.approx(100 * iou.mean(), abs=1e-9)
    accuracy = counts.diagonal() / counts.sum(1)
    assert metrics['mAcc'] == pytest.approx(100 * accuracy.mean(), abs=1e-9)
    assert metrics['aAcc'] == pytest.approx(
        100 * counts.trace() / counts.sum(), abs=1e-9
    )


def test_one_class_is_the_foreground_of_two():
    pairs = random_pairs(2)
    one, metrics = evaluate(pairs, ['cell'], iou_metrics=ALL)
    two, both = evaluate(pairs, ['rest', 'cell'], iou_metrics=ALL)
    assert one.per_class == {'cell': two.per_class['cell']}
    assert metrics['mIoU'] == one.per_class['cell']['IoU']
    assert metrics['aAcc'] == both['aAcc']


@pytest.mark.parametrize('shape', [(6, 7), (3, 4, 5)])
@pytest.mark.parametrize('told_by', ['argument', 'metainfo'])
def test_multi_label_measures_each_class_alone(shape, told_by):
    pairs = random_pairs(2, shape=(3, *shape))
    classes = ['a', 'b', 'c']
    metric = IoUMetric(
        iou_metrics=ALL, multi_label=True if told_by == 'argument' else None
    )
    metric.dataset_meta = dict(classes=classes, multi_label=True)
    for pred, truth in pairs:
        metric.process(
            {},
            [
                dict(
                    pred_sem_seg=dict(data=torch.as_tensor(pred)),
                    gt_sem_seg=dict(data=torch.as_tensor(truth)),
                )
            ],
        )
    metrics = metric.compute_metrics(metric.results)
    correct = valid = 0
    for k, name in enumerate(classes):
        plane = [(p[k : k + 1], t[k : k + 1]) for p, t in pairs]
        alone, _ = evaluate(plane, [name], iou_metrics=ALL)
        assert metric.per_class[name] == alone.per_class[name]
        counts = confusion_matrix(plane, 2)
        correct, valid = correct + counts.trace(), valid + counts.sum()
    assert metrics['aAcc'] == pytest.approx(100 * correct / valid)
    assert metrics['mIoU'] == pytest.approx(
        np.mean([row['IoU'] for row in metric.per_class.values()])
    )


def test_an_absent_class_is_nan_and_left_out():
    truth = np.array([[[0, 0, 1, 255]]])
    pred = np.array([[[0, 1, 1, 2]]])
    metric, metrics = evaluate([(pred, truth)], ['a', 'b', 'absent'])
    assert np.isnan(metric.per_class['absent']['IoU'])
    assert metrics['mIoU'] == pytest.approx(50)
    metric, metrics = evaluate([(pred, truth)], list('abc'), nan_to_num=0)
    assert metric.per_class['c']['IoU'] == 0
    assert metrics['mIoU'] == pytest.approx(100 / 3)


def test_nothing_but_ignored_pixels_is_nan():
    pred, truth = np.zeros((1, 2, 2), int), np.full((1, 2, 2), 255)
    metric, metrics = evaluate([(pred, truth)], ['a', 'b'])
    assert all(np.isnan(value) for value in metrics.values())
    assert np.isnan(metric.per_class['a']['IoU'])


def test_counts_beyond_24_bits_are_exact():
    """mmseg's float32 sums stop counting at 2**24."""
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=['a', 'b'])
    areas = torch.tensor([2**24, 1])
    metrics = metric.compute_metrics(
        [(areas, areas, areas, areas)]
        + [(areas * 0, *[torch.tensor([1, 0])] * 3)] * 5
    )
    iou = (2**24 / (2**24 + 5) + 1) / 2
    assert metrics['mIoU'] == pytest.approx(100 * iou, rel=1e-12)


@pytest.mark.parametrize(
    ('pred', 'truth', 'message'),
    [
        ([[[0, 2]]], [[[0, 1]]], 'the prediction has 1 pixels of label 2'),
        ([[[0, 1]]], [[[0, 7]]], 'the truth has 1 pixels of label 7'),
        ([[[0, 1]]], [[[2, 2]]], 'the truth has 2 pixels of label 2'),
        ([[[0, 1]]], [[[0, 300]]], 'the truth has 1 pixels of label 300'),
        ([[[0, -1]]], [[[0, 1]]], 'the prediction has 1 pixels of label -1'),
        ([[[0, 1, 1]]], [[[0, 1]]], 'shape'),
    ],
)
def test_what_cannot_be_counted_names_the_image(pred, truth, message):
    with pytest.raises(ValueError, match=rf'a/b\.png: .*{message}'):
        evaluate([(np.array(pred), np.array(truth))], ['a', 'b'])


@settings(max_examples=60, deadline=None)
@given(
    num_labels=st.sampled_from([2, 5, 255, 256, 300]),
    ignore_index=st.sampled_from([255, 0, 1, -100, 1000]),
    dtype=st.sampled_from([torch.uint8, torch.int32, torch.int64]),
    shape=st.sampled_from([(5, 6), (3, 4, 5), (0, 4)]),
    pixels=st.sampled_from([7, 2**20]),
    seed=st.integers(0, 2**16),
)
def test_counts_are_the_plain_confusion_matrix(
    num_labels, ignore_index, dtype, shape, pixels, seed
):
    """Whichever way counts; what is predicted at ignored pixels is free."""
    if dtype == torch.uint8:
        num_labels = min(num_labels, 255)
        ignore_index = ignore_index if ignore_index in (0, 1) else 255
    rng = torch.Generator().manual_seed(seed)
    pred, truth = torch.randint(num_labels, (2, *shape), generator=rng)
    ignored = torch.rand(shape, generator=rng) < 0.3
    pred[ignored] = 200
    truth[ignored] = ignore_index
    wanted = torch.zeros(num_labels, num_labels, dtype=torch.int64)
    for p, t in zip(pred.flatten(), truth.flatten(), strict=True):
        if t != ignore_index:
            wanted[t, p] += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(iou_metric, 'PIXELS_AT_A_TIME', pixels)
        pred, truth = pred.to(dtype), truth.to(dtype)
        found = iou_metric._confusion(pred, truth, num_labels, ignore_index)
    assert torch.equal(found, wanted)
    if found.numel() and truth.numel():
        ways = iou_metric._pair_counts(
            pred.flatten(), truth.flatten(), num_labels, ignore_index
        )
        assert torch.equal(ways, wanted)


def test_the_counts_stay_small_until_they_are_collected():
    """Four numbers a class and image, whatever the size of the image."""
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=list('abc'))
    for size in (8, 64):
        labels = torch.randint(3, (1, size, size))
        sample = dict(
            pred_sem_seg=dict(data=labels), gt_sem_seg=dict(data=labels)
        )
        metric.process({}, [sample])
    assert [tuple(r.shape) for r in metric.results] == [(4, 3), (4, 3)]
    assert metric.evaluate(2)['mIoU'] == 100


def test_a_sample_without_truth_is_named():
    metric = IoUMetric()
    metric.dataset_meta = dict(classes=['a', 'b'])
    sample = dict(
        img_path='x.png', pred_sem_seg=dict(data=torch.zeros(1, 2, 2))
    )
    with pytest.raises(ValueError, match=r'x\.png: no truth'):
        metric.process({}, [sample])


def test_predictions_are_written_as_png(tmp_path):
    pred = np.random.default_rng(0).integers(0, 3, (1, 5, 6))
    pairs = [(pred.astype(np.uint8), pred)]
    evaluate(pairs, list('abc'), output_dir=str(tmp_path), format_only=True)
    with Image.open(tmp_path / 'b.png') as image:
        np.testing.assert_array_equal(np.asarray(image), pred[0])


def test_unknown_metric_is_refused():
    with pytest.raises(ValueError, match='iIoU'):
        IoUMetric(iou_metrics=['iIoU'])


def test_through_mmengines_evaluator():
    evaluator = Evaluator(
        dict(type='upernet_ext.IoUMetric', iou_metrics='mIoU')
    )
    evaluator.dataset_meta = dict(classes=['a', 'b'])
    sample = SegDataSample()
    sample.pred_sem_seg = GridData(data=torch.tensor([[[0, 1, 1, 0]]]))
    sample.gt_sem_seg = GridData(data=torch.tensor([[[0, 1, 0, 0]]]))
    evaluator.process([sample])
    metrics = evaluator.evaluate(1)
    assert metrics['mIoU'] == pytest.approx(100 * (2 / 3 + 1 / 2) / 2)
