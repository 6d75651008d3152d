"""What the assembled segmentor predicts: windows, views, sizes, labels."""

from itertools import product

import pytest
import torch
from mmseg.models import EncoderDecoder as MMSegEncoderDecoder
from mmseg.structures import SegDataSample

from upernet_ext.layers.rank import resize
from upernet_ext.structures import GridData

from .conftest import both_ranks, segmentor


@pytest.mark.parametrize('window_batch', [1, 3, 100])
@pytest.mark.parametrize('size', [(37, 45), (16, 16), (10, 40)])
@torch.no_grad()
def test_sliding_inference_equals_mmseg(
    size: tuple, window_batch: int
) -> None:
    model = segmentor(
        test_cfg=dict(
            mode='slide',
            crop_size=(16, 16),
            stride=(11, 8),
            window_batch=window_batch,
        )
    ).double()  # in float32 the batch size alone changes the last bits
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = MMSegEncoderDecoder.slide_inference(model, image, [{}, {}])
    torch.testing.assert_close(model.slide_inference(image), expected)


@torch.no_grad()
def test_sliding_inference_in_3d_equals_a_plain_loop() -> None:
    window, stride, size = (8, 8, 12), (5, 8, 9), (13, 8, 21)
    model = segmentor(
        3,
        test_cfg=dict(
            mode='slide',
            crop_size=window,
            stride=stride,
            window_weight='uniform',
        ),
    ).double()
    image = torch.randn(1, 3, *size, dtype=torch.float64)
    total, count = torch.zeros_like(image), torch.zeros(size)
    starts = [(0, 5), (0,), (0, 9)]
    for corner in product(*starts):
        box = tuple(
            slice(c, c + w) for c, w in zip(corner, window, strict=True)
        )
        total[(..., *box)] += model.encode_decode(image[(..., *box)])
        count[box] += 1
    assert count.min() == 1
    torch.testing.assert_close(model.slide_inference(image), total / count)


@both_ranks
@torch.no_grad()
def test_prediction_undoes_padding_and_resize(spatial_dims: int) -> None:
    model = segmentor(spatial_dims, test_cfg=dict(keep_logits=True))
    image = torch.randn(1, 3, *[16] * spatial_dims)
    content, original = (13,) * spatial_dims, (21,) * spatial_dims
    data = SegDataSample(metainfo=dict(img_shape=content, ori_shape=original))
    (result,) = model.predict(image, [data])
    logits = model.encode_decode(image)
    logits = resize(logits[(..., *[slice(13)] * spatial_dims)], original)
    torch.testing.assert_close(result.seg_logits.data, logits[0])
    assert torch.equal(result.pred_sem_seg.data[0], logits[0].argmax(0))


@torch.no_grad()
def test_prediction_equals_mmseg_postprocessing() -> None:
    model = segmentor(test_cfg=dict(keep_logits=True))
    image = torch.randn(2, 3, 16, 20)
    meta = dict(
        img_shape=(16, 20),
        ori_shape=(33, 27),
        flip=True,
        flip_direction='horizontal',
    )
    reference = [SegDataSample(metainfo=meta) for _ in image]
    MMSegEncoderDecoder.postprocess_result(
        model, model.encode_decode(image), reference
    )
    found = model.predict(image, [SegDataSample(metainfo=meta) for _ in image])
    for mine, theirs in zip(found, reference, strict=True):
        torch.testing.assert_close(
            mine.seg_logits.data, theirs.seg_logits.data
        )
        assert torch.equal(mine.pred_sem_seg.data, theirs.pred_sem_seg.data)


def test_logits_are_not_kept_unless_asked_for() -> None:
    (result,) = segmentor().predict(torch.randn(1, 3, 16, 16))
    assert 'seg_logits' not in result


@both_ranks
@torch.no_grad()
def test_views_are_averaged_as_probabilities(spatial_dims: int) -> None:
    axes = (-1, -2)
    model = segmentor(
        spatial_dims,
        test_cfg=dict(
            keep_logits=True,
            tta=dict(
                scales=(1.0, 1.5), flip_axes=axes, average='probabilities'
            ),
        ),
    )
    image = torch.randn(1, 3, *[16] * spatial_dims)
    total = 0
    for flips in ((), (-1,), (-2,), (-1, -2)):
        for size in (16, 24):
            view = resize(image, [size] * spatial_dims).flip(flips)
            logits = model.encode_decode(view).flip(flips)
            total = total + resize(logits, [16] * spatial_dims).softmax(1)
    (result,) = model.predict(image)
    torch.testing.assert_close(result.seg_logits.data[None], total / 8)
    assert torch.equal(result.pred_sem_seg.data[0], total[0].argmax(0))


def test_mirrored_image_gives_the_mirrored_result() -> None:
    model = segmentor(test_cfg=dict(tta=dict(flip_axes=(-1,))))
    image = torch.randn(1, 3, 16, 16)
    (one,), (other,) = model.predict(image), model.predict(image.flip(-1))
    assert torch.equal(one.pred_sem_seg.data, other.pred_sem_seg.data.flip(-1))


@pytest.mark.parametrize(
    ('tta', 'message'),
    [
        (dict(flip=True), r"takes .* flip_axes, and average, got \['flip'\]"),
        (dict(flip_axes=(-3,)), r'must lie in \[-2, -1\]'),
    ],
)
def test_wrong_views_are_refused(tta: dict, message: str) -> None:
    model = segmentor(test_cfg=dict(tta=tta))
    with pytest.raises(ValueError, match=message):
        model.predict(torch.randn(1, 3, 16, 16))


# One class, several labels -------------------------------------------------


@both_ranks
@pytest.mark.parametrize(
    'tta', [None, dict(flip_axes=(-1,), average='probabilities')]
)
@torch.no_grad()
def test_one_class_is_a_sigmoid_and_a_threshold(
    spatial_dims: int, tta: dict | None
) -> None:
    image = torch.randn(1, 3, *[16] * spatial_dims)
    model = segmentor(spatial_dims, num_classes=1, test_cfg=dict(tta=tta))
    scores = model.encode_decode(image).sigmoid()
    if tta:
        flipped = model.encode_decode(image.flip(-1)).sigmoid().flip(-1)
        scores = (scores + flipped) / 2
    for threshold in (None, scores.median().item()):
        model.decode_head.threshold = threshold or 0.5
        (result,) = model.predict(image)
        wanted = scores[0] > (threshold or 0.5)
        assert torch.equal(result.pred_sem_seg.data, wanted.long())


@both_ranks
def test_multi_label_predicts_every_class_by_itself(spatial_dims: int) -> None:
    model = segmentor(spatial_dims, multi_label=True)
    image = torch.randn(1, 3, *[16] * spatial_dims)
    (result,) = model.predict(image)
    with torch.no_grad():
        scores = model.encode_decode(image)
    assert torch.equal(result.pred_sem_seg.data, (scores[0] > 0).long())
    labels = torch.randint(2, (3, *[16] * spatial_dims))
    data = SegDataSample()
    data.gt_sem_seg = GridData(data=labels)
    found = model.loss(image, [data])['decode.loss_ce']
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(
        scores[0], labels.float()
    )
    torch.testing.assert_close(found, wanted)
