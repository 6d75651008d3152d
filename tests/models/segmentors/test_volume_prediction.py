"""Volumes: back to the file's grid, slice by slice, mirrored."""

from itertools import chain, combinations

import numpy as np
import pytest
import torch
from mmseg.structures import SegDataSample
from scipy.ndimage import zoom
from torch import nn

from upernet_ext.layers.rank import resize
from upernet_ext.models import EncoderDecoder
from upernet_ext.models.segmentors.case_labels import case_labels
from upernet_ext.models.segmentors.lazy_logits import LazyLogits
from upernet_ext.structures import CaseGeometry

SOURCE = (10, 14, 12)
GEOMETRIES = {
    'identity': dict(axes=(0, 1, 2), crop_box=((0, 10), (0, 14), (0, 12))),
    'transposed': dict(axes=(2, 0, 1), crop_box=((0, 12), (0, 10), (0, 14))),
    'cropped': dict(axes=(0, 1, 2), crop_box=((1, 9), (4, 14), (0, 7))),
    'both': dict(axes=(1, 2, 0), crop_box=((2, 12), (1, 11), (3, 9))),
}
ZOOMS = {'same': (1, 1, 1), 'finer': (2, 2, 2), 'anisotropic': (3, 1, 2)}


def labels_of_a_case() -> np.ndarray:
    """Boxes of the classes 1 and 2 on 0, whose faces are even."""
    labels = np.zeros(SOURCE, dtype=np.uint8)
    labels[2:8, 4:12, 2:6] = 1
    labels[4:6, 6:10, 4:6] = 2
    return labels


def boxed(labels: np.ndarray, metainfo: dict) -> np.ndarray:
    box = tuple(slice(*ends) for ends in metainfo['crop_box'])
    return labels.transpose(metainfo['axes'])[box]


@pytest.mark.parametrize('factor', ZOOMS)
@pytest.mark.parametrize('name', GEOMETRIES)
def test_labels_that_went_forward_come_back(name: str, factor: str) -> None:
    metainfo = dict(GEOMETRIES[name], ori_shape=SOURCE)
    source = labels_of_a_case()
    box = boxed(source, metainfo)
    seen = box
    for axis, times in enumerate(ZOOMS[factor]):
        seen = seen.repeat(times, axis)
    scores = torch.from_numpy(np.eye(3)[seen]).movedim(-1, 0)
    geometry = CaseGeometry.from_metainfo(metainfo)
    found = case_labels(LazyLogits.of(scores[None]), geometry)
    assert (found.dtype, tuple(found.shape)) == (torch.uint8, (1, *SOURCE))
    expected = geometry.paste(torch.from_numpy(box.copy())[None])
    assert torch.equal(found, expected)
    if name in ('identity', 'transposed'):
        assert np.array_equal(found[0], source)
    several = case_labels(LazyLogits.of(scores[None]), geometry, threshold=0.6)
    for label in (1, 2):
        assert torch.equal(several[label], (expected[0] == label).byte())


@pytest.mark.parametrize('size', [(10, 14, 12), (5, 20, 7), (23, 9, 12)])
def test_resampling_is_linear_between_voxels(size: tuple) -> None:
    """scipy's; voxels are cells, whose outer faces stay where they are."""
    metainfo = dict(GEOMETRIES['both'], ori_shape=SOURCE)
    geometry = CaseGeometry.from_metainfo(metainfo)
    scores = torch.randn(4, *size)
    factors = np.divide(geometry.box_shape, size)
    resampled = np.stack(
        [
            zoom(s.double(), factors, order=1, mode='nearest', grid_mode=True)
            for s in scores
        ]
    )
    expected = torch.from_numpy(resampled.argmax(0).astype(np.uint8))[None]
    assert torch.equal(
        case_labels(LazyLogits.of(scores[None]), geometry),
        geometry.paste(expected),
    )
    regions = torch.from_numpy((resampled > 0.3).astype(np.uint8))
    assert torch.equal(
        case_labels(LazyLogits.of(scores[None]), geometry, threshold=0.3),
        geometry.paste(regions),
    )


# The model -----------------------------------------------------------------

RESNET = dict(
    type='upernet_ext.ResNet',
    arch='resnet18',
    base_channels=4,
    out_indices=(1, 2, 3, 4),
    norm_cfg=dict(type='GN'),
)
HEAD = dict(type='upernet_ext.UPerHead', channels=8, norm_cfg=dict(type='GN'))


def segmentor(spatial_dims: int, **kwargs) -> EncoderDecoder:
    arguments = dict(
        num_classes=3, in_channels=1, spatial_dims=spatial_dims, **kwargs
    )
    model = EncoderDecoder(RESNET, HEAD, **arguments)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def case(name: str = 'both', size: tuple = (8, 16, 12)) -> SegDataSample:
    metainfo = dict(GEOMETRIES[name], ori_shape=SOURCE, img_shape=size)
    return SegDataSample(metainfo=metainfo)


@pytest.mark.parametrize('multi_label', [False, True])
@torch.no_grad()
def test_prediction_of_a_case_is_in_its_files_grid(multi_label: bool) -> None:
    """Also where the batch is padded; logits stay in the network's grid."""
    model = segmentor(
        3, multi_label=multi_label, test_cfg=dict(keep_logits=True)
    )
    model.decode_head.threshold = 0.4
    volume = torch.randn(1, 1, 8, 20, 16)
    (result,) = model.predict(volume, [case()])
    logits = model.encode_decode(volume)[0, :, :, :16, :12]
    torch.testing.assert_close(result.seg_logits.data, logits)
    geometry = CaseGeometry.from_metainfo(result.metainfo)
    scores = resize(logits[None], geometry.box_shape)
    wanted = scores.argmax(1)
    if multi_label:
        wanted = (scores[0].sigmoid() > 0.4).long()
    assert wanted.float().std() > 0.1
    assert torch.equal(result.pred_sem_seg.data, geometry.paste(wanted.byte()))


@pytest.mark.parametrize('average', ['logits', 'probabilities'])
@torch.no_grad()
def test_volumes_are_mirrored_along_every_axis(average: str) -> None:
    """nnU-Net's eight views; what is averaged goes back to the file."""
    tta = dict(flip_axes=(-1, -2, -3), average=average)
    model = segmentor(3, test_cfg=dict(keep_logits=True, tta=tta))
    volume = torch.randn(1, 1, 8, 16, 12)
    (result,) = model.predict(volume, [case()])
    axes = (-1, -2, -3)
    total = torch.zeros(1, 3, 8, 16, 12)
    for flips in chain(*(combinations(axes, n) for n in range(4))):
        logits = model.encode_decode(volume.flip(flips)).flip(flips)
        total += logits if average == 'logits' else logits.softmax(1)
    torch.testing.assert_close(result.seg_logits.data[None], total / 8)
    geometry = CaseGeometry.from_metainfo(result.metainfo)
    assert torch.equal(
        result.pred_sem_seg.data, case_labels(LazyLogits.of(total), geometry)
    )


@torch.no_grad()
def test_scales_of_logits_are_averaged_too() -> None:
    tta = dict(scales=(1.0, 1.5), average='logits')
    model = segmentor(2, test_cfg=dict(keep_logits=True, tta=tta))
    image = torch.randn(1, 1, 16, 20)
    larger = resize(
        model.encode_decode(resize(image, (24, 30))), image.shape[2:]
    )
    expected = (model.encode_decode(image) + larger) / 2
    (result,) = model.predict(image)
    torch.testing.assert_close(result.seg_logits.data[None], expected)


def test_the_default_average_is_each_ranks() -> None:
    volume = torch.randn(1, 1, 8, 8, 8)
    for rank, average in ((2, 'probabilities'), (3, 'logits')):
        image = volume if rank == 3 else volume[:, :, 0]
        found = []
        for tta in (dict(), dict(average=average)):
            torch.manual_seed(1)
            tta['flip_axes'] = (-1,)
            model = segmentor(rank, test_cfg=dict(keep_logits=True, tta=tta))
            (result,) = model.predict(image)
            found.append(result.seg_logits.data)
        assert torch.equal(*found)
    model.test_cfg.tta = dict(average='votes')
    with pytest.raises(ValueError, match=r"average must be one of .* 'votes'"):
        model.predict(volume)


# A network of images -------------------------------------------------------


@pytest.mark.parametrize(
    'test_cfg',
    [
        dict(window_batch=3),
        dict(mode='slide', crop_size=(8, 8), stride=(5, 6)),
        dict(mode='slide', crop_size=(8, 24), window_weight='gaussian'),
        dict(tta=dict(flip_axes=(-1, -2), average='logits')),
        dict(tta=dict(scales=(1.0, 1.5), flip_axes=(-1,))),
    ],
)
@torch.no_grad()
def test_slices_of_a_volume_are_images(test_cfg: dict) -> None:
    torch.manual_seed(1)
    model = segmentor(2, test_cfg=dict(keep_logits=True, **test_cfg)).double()
    volume = torch.randn(1, 1, 7, 16, 12, dtype=torch.float64)
    (result,) = model.predict(volume, [case(size=(7, 16, 12))])
    slices = model.predict(volume[0].movedim(1, 0))
    expected = torch.stack([s.seg_logits.data for s in slices], dim=1)
    torch.testing.assert_close(result.seg_logits.data, expected)
    geometry = CaseGeometry.from_metainfo(result.metainfo)
    assert torch.equal(
        result.pred_sem_seg.data,
        case_labels(LazyLogits.of(expected[None]), geometry),
    )


@torch.no_grad()
def test_slices_run_in_batches() -> None:
    model = segmentor(2, test_cfg=dict(window_batch=3))
    sizes = []
    model.backbone.register_forward_pre_hook(
        lambda _, inputs: sizes.append(tuple(inputs[0].shape))
    )
    (result,) = model.predict(torch.randn(1, 1, 7, 16, 12))
    assert sizes == [(n, 1, 16, 12) for n in (3, 3, 1)]
    assert result.pred_sem_seg.data.shape == (1, 7, 16, 12)


@torch.no_grad()
def test_sums_on_the_cpu_give_the_same() -> None:
    model = segmentor(3)
    volume = torch.randn(1, 1, 13, 16, 12)
    found = []
    for accumulate in ('device', 'cpu'):
        model.test_cfg.update(
            mode='slide', crop_size=(8, 8, 8), accumulate=accumulate
        )
        found.append(model.inference(volume))
    assert torch.equal(*found)
