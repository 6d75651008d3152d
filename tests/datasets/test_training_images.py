"""Our training pipelines against mmseg's transforms, file to tensor."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import Compose
from mmengine.registry import DefaultScope

from upernet_ext.config import load_config

DATASETS = ('ade20k', 'camvid', 'cityscapes', 'drive', 'nuclei', 'voc12aug')
CROP = (24, 32)


def pipeline(name):
    config = load_config(
        f'configs/_base_/datasets/{name}.py',
        overrides=dict(img_scale=(96, 48), crop_size=CROP),
    )
    return config.train_pipeline


def as_mmseg(steps):
    """Write the same steps with mmcv's and mmseg's transforms alone."""
    for step in steps:
        kind = step['type'].removeprefix('upernet_ext.')
        options = {k: v for k, v in step.items() if k != 'type'}
        crop = {
            k: options.pop(k)
            for k in ('crop_size', 'cat_max_ratio')
            if k in options
        }
        if kind == 'LoadImage':
            yield dict(type='LoadImageFromFile')
        elif kind == 'LoadMask':
            yield dict(type='LoadAnnotations')
        elif kind == 'PackInputs':
            yield dict(type='PackSegInputs')
        else:
            kind = 'RandomResize' if kind == 'RandomResizeCrop' else kind
            yield dict(type=kind, **options)
        if crop:
            yield dict(type='RandomCrop', **crop)


@pytest.fixture(scope='module', params=DATASETS)
def sides(request):
    ours = pipeline(request.param)
    with DefaultScope.overwrite_default_scope('mmseg'):
        return Compose(ours), Compose(list(as_mmseg(ours)))


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(4, 60), st.integers(4, 60)),
    suffix=st.sampled_from(['jpg', 'png']),
    grey=st.booleans(),
    reduce_zero_label=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_byte_is_mmsegs(
    sides, tmp_path_factory, size, suffix, grey, reduce_zero_label, seed
):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.getbasetemp()
    image = rng.integers(0, 256, size if grey else (*size, 3), np.uint8)
    labels = rng.choice(np.uint8([0, 1, 255]), (-(-size[0] // 4), size[1]))
    labels = np.repeat(labels, 4, axis=0)[: size[0]]
    paths = dict(
        img_path=f'{folder}/image.{suffix}', seg_map_path=f'{folder}/mask.png'
    )
    cv2.imwrite(paths['img_path'], image)
    cv2.imwrite(paths['seg_map_path'], labels)
    packed = []
    for side in sides:
        np.random.seed(seed)
        sample = dict(
            paths,
            label_map=None,
            reduce_zero_label=reduce_zero_label,
            seg_fields=[],
        )
        side.transforms[1].reduce_zero_label = reduce_zero_label
        packed.append((side(sample), np.random.random_sample()))
    (ours, next_draw), (theirs, their_next_draw) = packed
    assert next_draw == their_next_draw
    assert ours['inputs'].dtype == torch.uint8
    assert ours['inputs'].is_contiguous()
    assert torch.equal(ours['inputs'], theirs['inputs'])
    found, expected = (p['data_samples'] for p in (ours, theirs))
    assert found.gt_sem_seg.data.is_contiguous()
    assert torch.equal(found.gt_sem_seg.data.long(), expected.gt_sem_seg.data)
    for key in ('img_shape', 'ori_shape', 'scale_factor', 'flip'):
        assert found.get(key) == expected.get(key)
