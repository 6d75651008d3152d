"""The assembled segmentor: numbers that flow, norms, losses, weights."""

import pytest
import torch
from mmengine.logging import MMLogger
from mmseg.structures import SegDataSample

from upernet_ext.models import DiceLoss
from upernet_ext.registry import MODELS
from upernet_ext.structures import GridData

from .conftest import AUX, HEAD, NECK, VIT, both_ranks, sample, segmentor

# Numbers that flow ---------------------------------------------------------


@both_ranks
def test_numbers_flow_from_backbone_and_dataset(spatial_dims: int) -> None:
    model = segmentor(spatial_dims, in_channels=2, num_classes=5)
    assert model.backbone.patch_embed.proj.in_channels == 2
    assert model.neck.in_channels == (24,) * 4
    assert list(model.decode_head.in_channels) == [12] * 4
    assert model.auxiliary_head.in_channels == 12
    for head in (model.decode_head, model.auxiliary_head):
        assert head.conv_seg.out_channels == 5
        assert head.conv_seg.weight.ndim == 2 + spatial_dims
    strides = [(s,) * spatial_dims for s in (1, 2, 4, 8)]
    assert model.levels.strides == tuple(strides)


BORROWED = {
    'mmseg.ResNetV1c': dict(depth=18, base_channels=8, stem_channels=8),
    'mmseg.ResNet': dict(depth=18, base_channels=8, stem_channels=8),
    'mmseg.MobileNetV2': dict(widen_factor=0.25, out_indices=(1, 2, 4, 6)),
    'mmseg.SwinTransformer': dict(
        embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)
    ),
    'mmseg.MixVisionTransformer': dict(
        embed_dims=8, num_layers=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)
    ),
    'mmpretrain.ConvNeXt': dict(
        arch=dict(depths=[1, 1, 1, 1], channels=[8, 12, 16, 24]),
        out_indices=(0, 1, 2, 3),
        gap_before_final_norm=False,
    ),
    'mmpretrain.SwinTransformer': dict(
        arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1]),
        img_size=64,
        out_indices=(0, 1, 2, 3),
    ),
    'upernet_ext.TransformersBackbone:convnext': dict(
        config=dict(hidden_sizes=(8, 12, 16, 24), depths=(1, 1, 1, 1))
    ),
    'upernet_ext.TransformersBackbone:swin': dict(
        config=dict(
            embed_dim=8,
            depths=(1, 1, 1, 1),
            num_heads=(1, 1, 1, 1),
            image_size=64,
            window_size=4,
        )
    ),
}


@pytest.mark.parametrize(
    'name',
    [
        pytest.param(n, marks=pytest.mark.needs_torchvision)
        if n.startswith('mmpretrain')
        else n
        for n in BORROWED
    ],
)
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_borrowed_backbones_are_measured(name: str) -> None:
    """Swapping the backbone line is enough, and it trains and predicts."""
    kind, _, model_type = name.partition(':')
    backbone = dict(type=kind, **BORROWED[name])
    if model_type:
        backbone['model_type'] = model_type
    model = segmentor(backbone=backbone, neck=None)
    assert model.levels.strides == tuple((s, s) for s in (4, 8, 16, 32))
    image = torch.randn(2, 3, 64, 96)
    maps = model.backbone(image)
    assert tuple(m.shape[1] for m in maps) == model.levels.channels
    model.train()
    samples = [sample(2, 64) for _ in image]
    for s in samples:
        s.gt_sem_seg = GridData(data=torch.randint(3, (1, 64, 96)))
    loss, _ = model.parse_losses(model.loss(image, samples))
    loss.backward()
    grads = [p.grad for p in model.backbone.parameters()]
    assert sum(g.abs().sum() for g in grads if g is not None) > 0


def test_measuring_changes_no_mode_and_no_statistics() -> None:
    model = segmentor(
        backbone=dict(type='mmseg.ResNet', **BORROWED['mmseg.ResNet']),
        neck=None,
    )
    fresh = MODELS.build(dict(type='mmseg.ResNet', **BORROWED['mmseg.ResNet']))
    for name, value in fresh.state_dict().items():
        if 'running' in name or 'num_batches' in name:
            assert torch.equal(value, model.backbone.state_dict()[name])


def test_neck_of_another_library_is_filled_and_measured() -> None:
    model = segmentor(
        backbone=dict(type='mmseg.ResNet', **BORROWED['mmseg.ResNet']),
        neck=dict(type='mmseg.FPN', out_channels=10, num_outs=4),
    )
    assert model.levels.channels == (10,) * 4
    assert model.levels.strides == tuple((s, s) for s in (4, 8, 16, 32))
    model = segmentor(
        neck=dict(type='mmseg.Feature2Pyramid', norm_cfg=dict(type='BN'))
    )
    assert model.levels.strides == tuple((s, s) for s in (1, 2, 4, 8))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            dict(decode_head=dict(HEAD, in_channels=[9] * 4)),
            r'decode_head.in_channels=\[9, 9, 9, 9\], but the neck '
            r'upernet_ext.MultiLevelNeck gives \[12, 12, 12, 12\]',
        ),
        (
            dict(neck=dict(NECK, in_channels=[7] * 4)),
            r'neck.in_channels=\[7, 7, 7, 7\], but the backbone '
            r'upernet_ext.VisionTransformer gives \[24',
        ),
        (
            dict(decode_head=dict(HEAD, num_classes=7)),
            'decode_head.num_classes=7, but the dataset gives 3',
        ),
        (
            dict(auxiliary_head=dict(AUX, in_index=4)),
            'auxiliary_head.in_index=4, but the neck .* gives 4 levels',
        ),
        (
            dict(neck=dict(NECK, scales=(4, 2))),
            'makes 2 levels .* but the backbone gives 4',
        ),
        (
            dict(spatial_dims=3, neck=dict(type='mmseg.FPN')),
            "'mmseg.FPN' takes images only, but spatial_dims=3",
        ),
        (
            dict(
                multi_label=True,
                decode_head=dict(type='mmseg.FCNHead', channels=8),
            ),
            "decode_head type 'mmseg.FCNHead' takes images and classes",
        ),
        (
            dict(test_cfg=dict(mode='slides')),
            "must be 'whole' or 'slide', got 'slides'",
        ),
        (dict(test_cfg=dict(mode='slide')), 'needs crop_size and stride'),
        (dict(test_cfg=dict(windows=3)), r"no key \['windows'\]"),
        (
            dict(
                num_classes=1,
                decode_head=dict(
                    HEAD,
                    loss_decode=dict(
                        type='upernet_ext.DiceLoss', use_sigmoid=False
                    ),
                ),
            ),
            'use_sigmoid=False, but the head has use_sigmoid=True',
        ),
    ],
)
def test_disagreement_names_both_sides(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmentor(**change)


def test_stated_numbers_that_agree_are_accepted() -> None:
    segmentor(
        neck=dict(NECK, in_channels=(24,) * 4),
        decode_head=dict(HEAD, in_channels=[12] * 4, num_classes=3),
    )


def test_unknown_type_asks_for_its_scope() -> None:
    with pytest.raises(KeyError, match='write it with its scope'):
        segmentor(backbone=dict(type='NoSuchNet'))


def test_configs_are_not_changed() -> None:
    head, neck = dict(HEAD), dict(NECK)
    segmentor(decode_head=head, neck=neck)
    assert (head, neck) == (HEAD, NECK)


# Norms ---------------------------------------------------------------------


@pytest.mark.parametrize('norm', ['BN', 'SyncBN', 'IN', 'GN', None])
@both_ranks
def test_one_image_a_device_trains_with_every_norm(
    norm: str | None, spatial_dims: int
) -> None:
    norm_cfg = norm and dict(type=norm)
    model = segmentor(
        spatial_dims,
        decode_head=dict(HEAD, norm_cfg=norm_cfg),
        auxiliary_head=dict(AUX, norm_cfg=norm_cfg),
    ).train()
    image = torch.randn(1, 3, *[16] * spatial_dims)
    loss, _ = model.parse_losses(model.loss(image, [sample(spatial_dims, 16)]))
    loss.backward()
    assert loss.isfinite()


def test_sync_batch_norm_of_a_borrowed_backbone_reverts() -> None:
    backbone = dict(
        type='mmseg.ResNet',
        **BORROWED['mmseg.ResNet'],
        norm_cfg=dict(type='SyncBN'),
    )
    model = segmentor(backbone=backbone, neck=None)
    assert not any(
        isinstance(m, torch.nn.SyncBatchNorm) for m in model.modules()
    )
    model.train()(torch.randn(2, 3, 32, 32), mode='tensor')


# Losses --------------------------------------------------------------------


@both_ranks
@pytest.mark.parametrize('size', [16, 13])
def test_loss_is_the_heads_losses(spatial_dims: int, size: int) -> None:
    """Also where the image is no multiple of the patch: aligned, cropped."""
    model = segmentor(spatial_dims).train()
    model.decode_head.dropout = model.auxiliary_head.dropout = None
    image = torch.randn(2, 3, *[size] * spatial_dims)
    samples = [sample(spatial_dims, size) for _ in image]
    losses = model.loss(image, samples)
    logits = model.encode_decode(image)
    labels = torch.stack([s.gt_sem_seg.data[0] for s in samples])
    torch.testing.assert_close(
        losses['decode.loss_ce'],
        torch.nn.functional.cross_entropy(logits, labels),
    )
    total, log_vars = model.parse_losses(losses)
    torch.testing.assert_close(
        total, losses['decode.loss_ce'] + losses['aux.loss_ce']
    )
    assert set(log_vars) == {'loss', *losses}
    assert samples[0].gt_sem_seg.shape == (size,) * spatial_dims


def test_foreign_losses_get_full_size_logits_and_train() -> None:
    foreign = dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True)
    ours = dict(type='upernet_ext.CrossEntropyLoss')
    gradients = []
    for loss in (foreign, ours):
        torch.manual_seed(0)
        model = segmentor(
            decode_head=dict(HEAD, loss_decode=loss, dropout_ratio=0),
            auxiliary_head=None,
        ).train()
        torch.manual_seed(1)
        losses = model.loss(torch.randn(2, 3, 16, 16), [sample(2, 16)] * 2)
        losses['decode.loss_ce'].backward()
        gradients.append(model.decode_head.conv_seg.weight.grad)
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize('multi_label', [False, True])
def test_a_foreign_loss_of_a_sigmoid_head_is_a_sigmoid_loss(
    multi_label: bool,
) -> None:
    """mmseg's softmax over one channel would be 0, and train nothing."""
    classes = 3 if multi_label else 1
    image = torch.randn(1, 3, 16, 16)
    labels = torch.randint(2, (classes, 16, 16))
    found = []
    for loss in ('mmseg', 'upernet_ext'):
        torch.manual_seed(0)
        cfg = dict(type=f'{loss}.CrossEntropyLoss', avg_non_ignore=True)
        model = segmentor(
            decode_head=dict(HEAD, loss_decode=cfg),
            num_classes=classes,
            multi_label=multi_label,
        )
        data = SegDataSample()
        data.gt_sem_seg = GridData(data=labels)
        found.append(model.loss(image, [data])['decode.loss_ce'])
    assert found[0] > 0.1
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings('ignore:.*build_pixel_sampler')
def test_several_losses_share_a_pixel_samplers_weights() -> None:
    loss = [
        dict(type='upernet_ext.CrossEntropyLoss'),
        dict(type='upernet_ext.DiceLoss', loss_weight=3.0),
    ]
    sampler = dict(type='mmseg.OHEMPixelSampler', thresh=0.7, min_kept=10)
    model = segmentor(
        decode_head=dict(
            HEAD, loss_decode=loss, sampler=sampler, dropout_ratio=0
        )
    )
    image = torch.randn(2, 3, 16, 16)
    samples = [sample(2, 16) for _ in image]
    losses = model.loss(image, samples)
    logits = model.encode_decode(image)
    labels = torch.stack([s.gt_sem_seg.data for s in samples])
    weight = model.decode_head.sampler.sample(logits, labels)
    assert 0 < weight.mean() < 1
    labels = labels[:, 0]
    entropy = torch.nn.functional.cross_entropy(
        logits, labels, reduction='none'
    )
    torch.testing.assert_close(
        losses['decode.loss_ce'], (entropy * weight).mean()
    )
    torch.testing.assert_close(
        losses['decode.loss_dice'],
        3 * DiceLoss()(logits, labels, weight=weight),
    )


# Weights -------------------------------------------------------------------


def test_random_weights_are_announced(caplog) -> None:
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    segmentor().load_pretrained()
    logger.removeHandler(caplog.handler)
    record = caplog.records[-1]
    assert 'RANDOM weights' in record.message
    assert record.levelname == 'WARNING'


def test_pretrained_file_is_loaded_after_initialisation(tmp_path) -> None:
    path = tmp_path / 'backbone.pth'
    source = segmentor().backbone
    torch.save(source.state_dict(), path)
    for backbone in (
        dict(VIT, pretrained=str(path)),
        dict(VIT, init_cfg=dict(type='Pretrained', checkpoint=str(path))),
    ):
        model = segmentor(backbone=backbone)
        model.init_weights()
        for mine, theirs in zip(
            model.backbone.parameters(), source.parameters(), strict=True
        ):
            assert torch.equal(mine, theirs)


@both_ranks
@torch.no_grad()
def test_channels_last_changes_no_result(spatial_dims: int) -> None:
    plain, last = (
        segmentor(spatial_dims),
        segmentor(spatial_dims, channels_last=True),
    )
    last.load_state_dict(plain.state_dict())
    image = torch.randn(1, 3, *[16] * spatial_dims)
    torch.testing.assert_close(
        last.encode_decode(image),
        plain.encode_decode(image),
        rtol=1e-4,
        atol=1e-5,
    )
    assert last.decode_head.fpn_bottleneck.conv.weight.is_contiguous(
        memory_format=last.memory_format
    )
