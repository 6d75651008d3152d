import pytest
import torch
from mmseg.models import SegDataPreProcessor as MMSegDataPreProcessor
from mmseg.structures import SegDataSample

from upernet_ext.models import SegDataPreProcessor
from upernet_ext.structures import GridData

MEAN, STD = [120.0, 110.0, 100.0], [50.0, 60.0, 70.0]
both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])


def item(size: tuple, channels: int = 3) -> tuple[torch.Tensor, SegDataSample]:
    image = torch.randint(256, (channels, *size), dtype=torch.uint8)
    sample = SegDataSample(metainfo=dict(ori_shape=(99,) * len(size)))
    sample.gt_sem_seg = GridData(data=torch.randint(4, (1, *size)))
    return image, sample


def batch(*sizes: tuple, channels: int = 3) -> dict:
    images, samples = zip(*(item(s, channels) for s in sizes), strict=True)
    return dict(inputs=list(images), data_samples=list(samples))


def test_equals_mmseg_in_training() -> None:
    data = batch((5, 7), (6, 4))
    theirs = MMSegDataPreProcessor(MEAN, STD, size=(8, 8), bgr_to_rgb=True)
    expected = theirs(
        dict(data, data_samples=[s.clone() for s in data['data_samples']]),
        training=True,
    )
    found = SegDataPreProcessor(MEAN, STD, size=(8, 8))(data, training=True)
    torch.testing.assert_close(found['inputs'], expected['inputs'])
    for mine, yours in zip(
        found['data_samples'], expected['data_samples'], strict=True
    ):
        assert torch.equal(mine.gt_sem_seg.data, yours.gt_sem_seg.data)


@both_ranks
def test_pads_behind_the_data_to_a_multiple(spatial_dims: int) -> None:
    sizes = [(5, 9, 4)[:spatial_dims], (7, 3, 6)[:spatial_dims]]
    data = batch(*sizes)
    images = data['inputs']
    out = SegDataPreProcessor(size_divisor=4)(data, training=True)
    assert out['inputs'].shape[2:] == (8, 12, 8)[:spatial_dims]
    for image, padded, sample in zip(
        images, out['inputs'], out['data_samples'], strict=True
    ):
        box = tuple(slice(s) for s in image.shape[1:])
        assert torch.equal(padded[(..., *box)], image[[2, 1, 0]].float())
        assert padded.sum() == image.float().sum()
        labels = sample.gt_sem_seg.data
        assert (labels == 255).sum() == labels.numel() - image[0].numel()
        assert sample.metainfo['img_shape'] == tuple(image.shape[1:])
        assert sample.metainfo['pad_shape'] == (8, 12, 8)[:spatial_dims]


@both_ranks
def test_testing_keeps_labels_and_original_size(spatial_dims: int) -> None:
    size = (5, 6, 7)[:spatial_dims]
    data = batch(size)
    labels = data['data_samples'][0].gt_sem_seg.data.clone()
    out = SegDataPreProcessor(test_cfg=dict(size_divisor=8))(data)
    assert out['inputs'].shape[2:] == (8,) * spatial_dims
    (sample,) = out['data_samples']
    assert torch.equal(sample.gt_sem_seg.data, labels)
    assert sample.metainfo['ori_shape'] == (99,) * spatial_dims


@both_ranks
@pytest.mark.parametrize('training', [True, False])
def test_labels_of_one_byte_become_indices(
    spatial_dims: int, training: bool
) -> None:
    data = batch((5, 6, 7)[:spatial_dims])
    truth = data['data_samples'][0].gt_sem_seg
    wanted = truth.data.clone()
    truth.data = truth.data.byte()
    # -1 is no byte.
    model = SegDataPreProcessor(size=(8,) * spatial_dims, seg_pad_val=-1)
    (sample,) = model(data, training=training)['data_samples']
    labels = sample.gt_sem_seg.data
    box = tuple(slice(s) for s in wanted.shape)
    assert labels.dtype == torch.int64
    assert torch.equal(labels[box], wanted)
    assert (labels == -1).sum() == labels.numel() - wanted.numel()
    assert truth.data.dtype == torch.uint8


def test_grey_images_take_the_mean_of_the_statistics() -> None:
    data = batch((4, 4), channels=1)
    image = data['inputs'][0].float()
    out = SegDataPreProcessor(MEAN, STD)(data)['inputs'][0]
    torch.testing.assert_close(out, (image - 110) / 60)


def test_channels_keep_their_order_unless_there_are_three() -> None:
    data = batch((4, 4), channels=4)
    image = data['inputs'][0].float()
    out = SegDataPreProcessor([1, 2, 3, 4], [2] * 4)(data)['inputs'][0]
    shift = torch.tensor([1, 2, 3, 4]).view(4, 1, 1)
    torch.testing.assert_close(out, (image - shift) / 2)


@both_ranks
def test_normalised_patches_pass_as_they_are(spatial_dims: int) -> None:
    patches = torch.randn(2, 3, *(5, 6, 7)[:spatial_dims])
    labels = torch.randint(3, (2, 1, *patches.shape[2:]))
    samples = [
        SegDataSample(
            metainfo=dict(normalized=True), gt_sem_seg=GridData(data=x)
        )
        for x in labels
    ]
    data = dict(inputs=list(patches), data_samples=samples)
    out = SegDataPreProcessor(MEAN, STD)(data, training=True)
    assert torch.equal(out['inputs'], patches)
    found = torch.stack([s.gt_sem_seg.data for s in out['data_samples']])
    assert torch.equal(found, labels)


def test_statistics_are_no_weights() -> None:
    assert not SegDataPreProcessor(MEAN, STD).state_dict()


def test_refuses() -> None:
    with pytest.raises(ValueError, match='go together'):
        SegDataPreProcessor(MEAN)
    with pytest.raises(ValueError, match='3 channels, but the image has 5'):
        SegDataPreProcessor(MEAN, STD)(batch((4, 4), channels=5))
    data = batch((4, 4))
    data['data_samples'][0].gt_sem_seg = GridData(data=torch.zeros(1, 4, 5))
    with pytest.raises(ValueError, match='changed only one of them'):
        SegDataPreProcessor()(data, training=True)
