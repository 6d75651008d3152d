import pytest
import torch
from mmseg.structures import SegDataSample

from upernet_ext.models import EncoderDecoder
from upernet_ext.models.segmentors.ensemble import Ensemble


def make_model(seed, spatial_dims=2, num_classes=3, **test_cfg):
    torch.manual_seed(seed)
    model = EncoderDecoder(
        backbone=dict(
            type='upernet_ext.ResNet',
            arch='resnet18',
            base_channels=4,
            out_indices=(0,),
        ),
        decode_head=dict(
            type='upernet_ext.FCNHead',
            channels=4,
            in_index=0,
            norm_cfg=None,
            threshold=0.3 if num_classes == 1 else 0.5,
            loss_decode=dict(type='upernet_ext.CrossEntropyLoss'),
        ),
        num_classes=num_classes,
        spatial_dims=spatial_dims,
        in_channels=1,
        test_cfg=dict(keep_logits=True, **test_cfg),
    )
    with torch.no_grad():
        model.decode_head.conv_seg.weight.mul_(100)
    return model.eval()


def predict(model, spatial_dims):
    torch.manual_seed(9)
    image = torch.randn(1, *[12] * spatial_dims)
    data = dict(inputs=[image], data_samples=[SegDataSample()])
    with torch.no_grad():
        return model.test_step(data)[0]


SLIDE = dict(mode='slide', crop_size=(8, 8, 8), overlap=0.5)


@pytest.mark.parametrize(
    ('spatial_dims', 'test_cfg'),
    [
        (2, {}),
        (3, SLIDE),
        (3, dict(SLIDE, tta=dict(flip_axes=(-1,)))),
    ],
)
def test_logits_are_the_mean_of_the_models(spatial_dims, test_cfg):
    """Also of windows and mirrored images, which are means themselves."""
    models = [make_model(seed, spatial_dims, **test_cfg) for seed in (0, 1, 2)]
    alone = [predict(model, spatial_dims) for model in models]
    together = predict(Ensemble(models), spatial_dims)
    mean = torch.stack([s.seg_logits.data for s in alone]).mean(0)
    torch.testing.assert_close(together.seg_logits.data, mean)
    labels = together.pred_sem_seg.data
    assert torch.equal(labels[0].long(), mean.argmax(0))
    assert not torch.equal(labels, alone[0].pred_sem_seg.data)


def test_a_single_class_is_decided_by_the_threshold():
    models = [make_model(seed, num_classes=1) for seed in (0, 1)]
    sample = predict(Ensemble(models), 2)
    expected = sample.seg_logits.data.sigmoid() > 0.3
    assert torch.equal(sample.pred_sem_seg.data.bool(), expected)
    assert 0 < expected.float().mean() < 1


def test_half_precision_is_summed_in_single():
    models = [make_model(seed).bfloat16() for seed in (0, 1)]
    x = torch.randn(1, 1, 12, 12).bfloat16()
    with torch.no_grad():
        mean = Ensemble(models).encode_decode(x)
        parts = [model.encode_decode(x).float() for model in models]
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean, sum(parts) / 2)


def test_models_must_agree():
    with pytest.raises(ValueError, match='at least one'):
        Ensemble([])
    with pytest.raises(ValueError, match=r'\[\(3, False\), \(2, False\)\]'):
        Ensemble([make_model(0), make_model(0, num_classes=2)])
    with pytest.raises(ValueError, match=r'spatial_dims \[2, 3\]'):
        Ensemble([make_model(0), make_model(0, spatial_dims=3)])
