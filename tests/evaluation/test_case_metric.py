"""Against nnU-Net's definitions, written out, and MONAI's distances."""

import json
import math

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from mmseg.structures import SegDataSample

from upernet_ext.datasets.volumes.labels import Labels
from upernet_ext.datasets.volumes.plan import Plan
from upernet_ext.evaluation import CaseMetric
from upernet_ext.evaluation.label_files import to_label_map
from upernet_ext.structures import GridData

SPACING = (4.0, 0.5, 1.0)
SHAPE = (6, 8, 10)
CLASSES = ('background', 'liver', 'tumour', 'cyst')


def sample(prediction, truth=None, case='case_1', **metainfo):
    """What a model hands to a metric."""
    facts = dict(case=case, img_path=f'{case}_0000.nii.gz', **metainfo)
    facts.setdefault('ori_spacing', SPACING[-(np.ndim(prediction) - 1) :])
    result = SegDataSample(metainfo=facts)
    for name, labels in (('pred', prediction), ('gt', truth)):
        if labels is not None:
            field = GridData(data=torch.as_tensor(np.asarray(labels)))
            setattr(result, f'{name}_sem_seg', field)
    return result.to_dict()


def boxes(**places):
    """Labels ``(1, *SHAPE)`` with a box a class: ``tumour=(z, y, x)``."""
    labels = np.zeros((1, *SHAPE), np.uint8)
    for name, (z, y, x) in places.items():
        labels[0, z : z + 2, y : y + 3, x : x + 4] = CLASSES.index(name)
    return labels


def cases():
    """Right, moved, missed, hallucinated; the cyst is nowhere."""
    return [
        sample(
            boxes(liver=(0, 0, 0), tumour=(3, 4, 5)),
            boxes(liver=(0, 0, 0), tumour=(3, 4, 4)),
            'moved',
        ),
        sample(
            boxes(liver=(1, 2, 2)),
            boxes(liver=(1, 1, 2), tumour=(4, 0, 0)),
            'missed',
        ),
        sample(
            boxes(liver=(1, 2, 2), tumour=(4, 5, 5)),
            boxes(liver=(1, 1, 3)),
            'hallucinated',
        ),
        sample(boxes(liver=(2, 2, 2)), boxes(liver=(2, 2, 2)), 'right'),
    ]


def evaluate(samples, classes=CLASSES, meta=None, **arguments):
    metric = CaseMetric(**arguments)
    metric.dataset_meta = dict(classes=classes, **(meta or {}))
    metric.process({}, samples)
    return metric.evaluate(len(samples)), metric


def nnunet_dice(item, label):
    """``compute_metrics`` of nnU-Net, line by line."""
    pred = item['pred_sem_seg']['data'].numpy()[0] == label
    ref = item['gt_sem_seg']['data'].numpy()[0] == label
    tp, fp = np.sum(ref & pred), np.sum(~ref & pred)
    fn = np.sum(ref & ~pred)
    with np.errstate(invalid='ignore'):
        return 2 * tp / (2 * tp + fp + fn)


def test_dice_is_nnunets_with_empty_missed_and_hallucinated_classes():
    found, metric = evaluate(cases())
    by_hand = {
        name: [nnunet_dice(item, k) for item in cases()]
        for k, name in enumerate(CLASSES[:3])
        if k
    }
    assert by_hand['tumour'][1:3] == [0, 0]
    assert math.isnan(by_hand['tumour'][3])
    means = {name: np.nanmean(v) for name, v in by_hand.items()}
    for name, mean in means.items():
        assert metric.per_class[name]['Dice'] == pytest.approx(mean)
    assert math.isnan(metric.per_class['cyst']['Dice'])
    assert found['Dice'] == pytest.approx(np.mean(list(means.values())))
    assert list(found) == ['Dice', 'HD95', 'NSD', 'HD95_one_empty']


@pytest.mark.filterwarnings('ignore:.*always_return_as_numpy:FutureWarning')
@pytest.mark.filterwarnings('ignore:the (prediction|ground truth) of class')
def test_distances_are_monais_and_the_diagonal():
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    found, metric = evaluate(cases(), nsd_tolerance=0.6)
    diagonal = math.hypot(*np.multiply(SHAPE, SPACING))
    assert found['HD95_one_empty'] == 2
    assert metric.per_class['tumour']['HD95_one_empty'] == 2
    assert metric.per_class['liver']['HD95_one_empty'] == 0
    for label, name in ((1, 'liver'), (2, 'tumour')):
        hd95, nsd = [], []
        for item in cases():
            masks = [
                item[f'{part}_sem_seg']['data'][None] == label
                for part in ('pred', 'gt')
            ]
            keywords = dict(include_background=True, spacing=list(SPACING))
            nsd += [compute_surface_dice(*masks, [0.6], **keywords).item()]
            sizes = [int(mask.sum()) for mask in masks]
            if all(sizes):
                distance = compute_hausdorff_distance(
                    *masks, percentile=95, **keywords
                ).item()
            else:
                distance = diagonal if any(sizes) else math.nan
            hd95 += [distance]
        row = metric.per_class[name]
        assert row['HD95'] == pytest.approx(np.nanmean(hd95), rel=1e-5)
        assert row['NSD'] == pytest.approx(np.nanmean(nsd), rel=1e-5)


@pytest.mark.parametrize('rank', [2, 3])
def test_moving_both_masks_together_changes_nothing(rank):
    random = np.random.default_rng(rank)
    blocks = random.integers(0, 3, (2, 1, *[4] * rank)).astype(np.uint8)
    found = []
    for start in (1, 3):
        pad = [(0, 0), (0, 0)] + [(start, 5 - start)] * rank
        prediction, truth = np.pad(blocks, pad)
        item = sample(prediction, truth)
        found.append(evaluate([item], classes=CLASSES[:3])[0])
    assert found[0] == pytest.approx(found[1])


def test_hd95_scales_with_the_spacing_and_overlap_does_not():
    one, _ = evaluate([sample(*pair, ori_spacing=SPACING) for pair in pairs()])
    double = [2 * s for s in SPACING]
    two, _ = evaluate(
        [sample(*pair, ori_spacing=double) for pair in pairs()],
        nsd_tolerance=2.0,
    )
    assert two.pop('HD95') == pytest.approx(2 * one.pop('HD95'))
    assert two == one


def pairs():
    return [
        (boxes(liver=(0, 0, 0)), boxes(liver=(1, 2, 1))),
        (boxes(liver=(0, 0, 0)), boxes(tumour=(1, 2, 1))),
    ]


def test_ignored_voxels_count_nowhere(tmp_path):
    random = np.random.default_rng(0)
    truth = random.integers(0, 3, (1, *SHAPE)).astype(np.uint8)
    truth[:, :, :, 5:] = 255
    prediction = random.integers(0, 3, truth.shape).astype(np.uint8)
    other = prediction.copy()
    other[truth == 255] = 2
    found, metric = evaluate([sample(prediction, truth)], output_dir=tmp_path)
    again, _ = evaluate([sample(other, truth)])
    assert found == again
    assert found['Dice'] < 1
    known = truth != 255
    masks = prediction[known] == 1, truth[known] == 1
    dice = 2 * np.sum(masks[0] & masks[1]) / sum(np.sum(m) for m in masks)
    assert metric.per_class['liver']['Dice'] == pytest.approx(dice)
    summary = json.loads((tmp_path / 'summary.json').read_text())
    counts = summary['metric_per_case'][0]['metrics']['1']
    assert counts['TN'] == np.sum(~(masks[0] | masks[1]))


def test_one_class_is_label_1_and_images_are_measured_in_pixels():
    truth = np.zeros((1, 9, 9), np.uint8)
    truth[0, 2:5, 2:5] = 1
    prediction = np.roll(truth, 2, axis=2)
    item = sample(prediction, truth, ori_spacing=None)
    found, metric = evaluate([item], classes=('vessel',))
    assert list(metric.per_class) == ['vessel']
    assert found['Dice'] == pytest.approx(2 * 3 / 18)
    assert found['HD95'] == 2


def test_classes_that_overlap_are_measured_each():
    truth = np.zeros((2, *SHAPE), np.uint8)
    truth[:, 1:3, 1:4, 1:5] = 1
    prediction = truth.copy()
    prediction[1, 2] = 0
    item = sample(prediction, truth)
    _, metric = evaluate([item], classes=('a', 'b'), multi_label=True)
    assert metric.per_class['a']['Dice'] == 1
    assert metric.per_class['b']['Dice'] == pytest.approx(2 / 3)


REGIONS = Labels(
    classes=('whole', 'core', 'active'),
    num_values=4,
    regions=((1, 2, 3), (2, 3), (3,)),
    regions_class_order=(1, 2, 3),
)


def region_meta():
    plan = Plan(
        dataset='Dataset001_Tiny',
        configuration='3d_fullres',
        channel_names=('MRI',),
        labels=REGIONS,
        axes=(0, 1, 2),
        spacing=(1.0, 1.0, 1.0),
        patch_size=(8, 8, 8),
        batch_size=2,
        median_shape=(8, 8, 8),
        normalization=('zscore',),
        use_mask_for_norm=(False,),
        intensities=({},),
        file_ending='.nii.gz',
        source='fingerprint',
    )
    return dict(
        plan=plan.to_dict(), multi_label=True, regions_class_order=[1, 2, 3]
    )


def test_regions_are_those_of_the_label_map_that_is_written(tmp_path):
    """nnU-Net reads its files: a core outside of the whole widens it."""
    random = np.random.default_rng(1)
    prediction = random.integers(0, 2, (3, *SHAPE)).astype(np.uint8)
    source = random.integers(0, 4, SHAPE)
    truth = REGIONS.label_sets().T[:, source]
    written = to_label_map(prediction, (1, 2, 3))
    expected = np.where(prediction[0], 1, 0)
    expected = np.where(prediction[1], 2, expected)
    expected = np.where(prediction[2], 3, expected)
    np.testing.assert_array_equal(written, expected)
    _, metric = evaluate(
        [sample(prediction, truth)],
        classes=REGIONS.classes,
        meta=region_meta(),
        case_metrics=['Dice'],
        output_dir=tmp_path,
    )
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert list(summary['mean']) == ['(1, 2, 3)', '(2, 3)', '3']
    for values, name, key in zip(
        REGIONS.regions, REGIONS.classes, summary['mean'], strict=True
    ):
        pred, ref = np.isin(written, values), np.isin(source, values)
        dice = 2 * np.sum(pred & ref) / (pred.sum() + ref.sum())
        assert metric.per_class[name]['Dice'] == pytest.approx(dice)
        assert summary['mean'][key]['Dice'] == pytest.approx(dice)
    assert metric.per_class['whole']['Dice'] != pytest.approx(
        2
        * np.sum(prediction[0] & truth[0])
        / (prediction[0].sum() + truth[0].sum())
    )


def test_overlapping_classes_without_an_order_make_no_label_map():
    with pytest.raises(ValueError, match='regions_class_order'):
        to_label_map(np.zeros((2, 3, 3, 3)))


def save_image(path, shape=SHAPE):
    """An oblique image, which a copy of the array alone would not match."""
    array = np.random.default_rng(0).normal(size=shape[::-1])
    if path.name.endswith('.mha'):
        image = sitk.GetImageFromArray(array.transpose())
        image.SetSpacing(SPACING[::-1])
        image.SetOrigin((3.0, -4.0, 5.0))
        image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
        sitk.WriteImage(image, str(path))
        return
    affine = np.array(
        [[0, -0.5, 0, 7], [1, 0, 0, 8], [0, 0, 4, -9], [0, 0, 0, 1.0]]
    )
    image = nibabel.Nifti1Image(array.astype(np.float32), affine)
    image.header.set_xyzt_units('mm')
    nibabel.save(image, path)


def test_summary_and_files_can_be_read_as_nnunets(tmp_path):
    """Its keys, its means; and each file lies over its image."""
    items = cases()
    for item in items:
        image = tmp_path / f'{item["case"]}_0000.nii.gz'
        save_image(image)
        item['img_paths'] = (str(image),)
        item['seg_map_path'] = f'labelsTr/{item["case"]}.nii.gz'
    out = tmp_path / 'out' / 'validation'
    evaluate(items, output_dir=out)
    text = (out / 'summary.json').read_text()
    summary = json.loads(text)
    assert list(summary['mean']) == ['1', '2', '3']
    assert summary['classes'] == {'1': 'liver', '2': 'tumour', '3': 'cyst'}
    assert [c['reference_file'] for c in summary['metric_per_case']] == [
        item['seg_map_path'] for item in items
    ]
    overlap = {'Dice', 'IoU', 'FP', 'TP', 'FN', 'TN', 'n_pred', 'n_ref'}
    for case, item in zip(summary['metric_per_case'], items, strict=True):
        assert set(case['metrics']['1']) == overlap | {'HD95', 'NSD'}
        file = nibabel.load(case['prediction_file'])
        image = nibabel.load(item['img_paths'][0])
        np.testing.assert_array_equal(file.affine, image.affine)
        assert file.header.get_xyzt_units() == image.header.get_xyzt_units()
        assert file.get_data_dtype() == np.uint8
        # By nnU-Net's own evaluation of the file.
        pred = np.asarray(file.dataobj).transpose()
        ref = item['gt_sem_seg']['data'].numpy()[0]
        for label in (1, 2, 3):
            row = case['metrics'][str(label)]
            one, two = pred == label, ref == label
            assert row['TP'] == np.sum(one & two)
            assert row['FP'] == np.sum(one & ~two)
            assert row['FN'] == np.sum(~one & two)
            assert row['TN'] == np.sum(~one & ~two)
            assert row['n_pred'] == row['TP'] + row['FP']
            assert row['n_ref'] == row['TP'] + row['FN']
            union = row['TP'] + row['FP'] + row['FN']
            iou = row['TP'] / union if union else np.nan
            assert row['IoU'] == pytest.approx(iou, nan_ok=True)
    rows = [case['metrics']['2'] for case in summary['metric_per_case']]
    for name in ('Dice', 'HD95', 'TP', 'n_ref'):
        mean = np.nanmean([row[name] for row in rows])
        assert summary['mean']['2'][name] == pytest.approx(mean)
    known = [summary['mean'][k]['Dice'] for k in ('1', '2')]
    assert math.isnan(summary['mean']['3']['Dice'])
    mean = summary['foreground_mean']['Dice']
    assert mean == pytest.approx(np.mean(known))
    assert summary['HD95_one_empty'] == {'1': 0, '2': 2, '3': 0}


def test_a_file_ends_as_its_image(tmp_path):
    image = tmp_path / 'a.mha'
    save_image(image)
    labels = boxes(liver=(0, 0, 0), tumour=(3, 4, 5))
    item = sample(labels, case='a', img_paths=(str(image),))
    found, _ = evaluate([item], format_only=True, output_dir=tmp_path / 'out')
    assert found == {}
    written = sitk.ReadImage(str(tmp_path / 'out' / 'a.mha'))
    source = sitk.ReadImage(str(image))
    assert written.GetOrigin() == source.GetOrigin()
    assert written.GetSpacing() == source.GetSpacing()
    assert written.GetDirection() == source.GetDirection()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), labels[0])


def test_overlap_alone_needs_no_spacing():
    item = sample(boxes(liver=(0, 0, 0)), boxes(liver=(0, 0, 1)))
    del item['ori_spacing']
    found, _ = evaluate([item], case_metrics='Dice')
    assert found == {'Dice': pytest.approx(3 / 4)}
    with pytest.raises(ValueError, match=r'case_1_0000.nii.gz.*ori_spacing'):
        evaluate([item])


def test_bad_samples_are_named():
    labels = boxes(liver=(0, 0, 0))
    with pytest.raises(ValueError, match=r'case_1_0000\.nii\.gz: no truth'):
        evaluate([sample(labels)])
    with pytest.raises(ValueError, match=r'case_1_0000.*\(1, 5, 8, 10\)'):
        evaluate([sample(labels, labels[:, 1:])])
    with pytest.raises(ValueError, match='prediction has labels 0 to 4'):
        evaluate([sample(labels * 4, labels)])
    with pytest.raises(ValueError, match='truth has labels 0 to 9'):
        evaluate([sample(labels, labels * 9)])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(case_metrics=['mDice']), 'case_metrics must be of'),
        (dict(case_metrics=[]), 'case_metrics must be of'),
        (dict(nsd_tolerance=-1), 'nsd_tolerance'),
        (dict(format_only=True), 'output_dir'),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        CaseMetric(**arguments)
