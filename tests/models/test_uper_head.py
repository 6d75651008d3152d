"""What the parity tests do not say of the head."""

import pytest
import torch
from mmseg.structures import SegDataSample
from torch.nn import functional as F  # noqa: N812

from upernet_ext.models import FCNHead, UPerHead
from upernet_ext.models.decode_heads.uper_head import supervision_weights
from upernet_ext.structures import GridData

CHANNELS = [4, 6, 8]
both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])


def _maps(spatial_dims: int, sizes: tuple = (8, 4, 2)) -> list[torch.Tensor]:
    return [
        torch.randn(1, c, *[s] * spatial_dims)
        for c, s in zip(CHANNELS, sizes, strict=True)
    ]


@both_ranks
@torch.no_grad()
def test_fused_top_down_carries_the_convolved_levels(
    spatial_dims: int,
) -> None:
    """medicai's flow, written out plainly."""
    head = UPerHead(
        CHANNELS,
        5,
        num_classes=2,
        spatial_dims=spatial_dims,
        top_down='fused',
        pool_scales=(1, 2),
    ).eval()
    maps = _maps(spatial_dims)
    mode = {2: 'bilinear', 3: 'trilinear'}[spatial_dims]

    def up(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, like.shape[2:], mode=mode)

    deepest = head.bottleneck(
        torch.cat([maps[2], *head.psp_modules(maps[2])], 1)
    )
    lateral = head.lateral_convs[1](maps[1])
    middle = head.fpn_convs[1](lateral + up(deepest, lateral))
    lateral = head.lateral_convs[0](maps[0])
    finest = head.fpn_convs[0](lateral + up(middle, lateral))
    fused = torch.cat([finest, up(middle, finest), up(deepest, finest)], 1)
    wanted = head.conv_seg(head.fpn_bottleneck(fused))
    torch.testing.assert_close(head(maps), wanted)
    head.top_down = 'lateral'
    assert (head(maps) - wanted).abs().max() > 1e-4


@both_ranks
@torch.no_grad()
def test_pool_scales_are_clipped_to_the_map(spatial_dims: int) -> None:
    head = UPerHead(
        CHANNELS, 5, num_classes=2, spatial_dims=spatial_dims
    ).eval()
    x = _maps(spatial_dims)[2]  # 2 pixels an axis, scales 1, 2, 3, 6
    _, two, three, six = head.psp_modules
    for branch in (three, six):
        branch.load_state_dict(two.state_dict())
        assert torch.equal(branch(x), two(x))
    assert head.psp_modules[3][0](x).shape == x.shape


@both_ranks
def test_dropout_drops_whole_channels(spatial_dims: int) -> None:
    head = UPerHead(
        CHANNELS,
        50,
        num_classes=2,
        spatial_dims=spatial_dims,
        dropout_ratio=0.5,
    )
    x = torch.ones(1, 50, *[3] * spatial_dims)
    dropped = head.dropout(x).flatten(2)
    assert set(dropped.unique().tolist()) == {0, 2}
    assert torch.equal(dropped.amin(2), dropped.amax(2))


@both_ranks
def test_classifier_is_initialised_normally(spatial_dims: int) -> None:
    head = UPerHead(CHANNELS, 500, num_classes=20, spatial_dims=spatial_dims)
    head.init_weights()
    assert head.conv_seg.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert head.conv_seg.bias.abs().max() == 0


def test_wrong_channels_are_named() -> None:
    head = UPerHead(CHANNELS, 5, num_classes=2)
    with pytest.raises(ValueError, match=r'maps have \[4, 6, 7\]'):
        head([*_maps(2)[:2], torch.zeros(1, 7, 2, 2)])
    with pytest.raises(ValueError, match="'lateral' or 'fused'"):
        UPerHead(CHANNELS, 5, num_classes=2, top_down='both')


@both_ranks
def test_fcn_head_without_convolutions_classifies(spatial_dims: int) -> None:
    head = FCNHead(
        8,
        8,
        num_classes=3,
        num_convs=0,
        concat_input=False,
        spatial_dims=spatial_dims,
        dropout_ratio=0,
    )
    maps = _maps(spatial_dims)
    assert torch.equal(head(maps), head.conv_seg(maps[-1]))
    with pytest.raises(ValueError, match='channels must be in_channels=8'):
        FCNHead(8, 4, num_classes=3, num_convs=0)


@both_ranks
def test_levels_can_be_joined(spatial_dims: int) -> None:
    head = FCNHead(
        [4, 6],
        5,
        num_classes=3,
        in_index=(0, 1),
        input_transform='resize_concat',
        num_convs=1,
        concat_input=False,
        spatial_dims=spatial_dims,
    )
    assert head.convs[0].conv.in_channels == 10
    maps = _maps(spatial_dims)
    size = maps[0].shape[2:]
    mode = {2: 'bilinear', 3: 'trilinear'}[spatial_dims]
    resized = F.interpolate(maps[1], size, mode=mode)
    head.eval()
    joined = head.convs(torch.cat([maps[0], resized], dim=1))
    torch.testing.assert_close(head(maps), head.conv_seg(joined))


# Deep supervision ----------------------------------------------------------


def _supervised(spatial_dims: int, **kwargs) -> tuple:
    head = UPerHead(
        CHANNELS,
        5,
        num_classes=3,
        spatial_dims=spatial_dims,
        dropout_ratio=0,
        norm_cfg=dict(type='GN'),
        **kwargs,
    )
    samples = []
    for _ in range(2):
        samples.append(SegDataSample())
        labels = torch.randint(3, (1, *[16] * spatial_dims))
        samples[-1].gt_sem_seg = GridData(data=labels)
    maps = [m.repeat(2, *[1] * (m.ndim - 1)) for m in _maps(spatial_dims)]
    return head, maps, samples


@both_ranks
@pytest.mark.parametrize(
    'loss',
    [
        dict(type='upernet_ext.DiceCELoss'),
        dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True),
    ],
)
def test_every_level_is_compared_with_the_full_labels(
    spatial_dims: int, loss: dict
) -> None:
    """Our losses, and foreign ones, which get logits at full size."""
    head, maps, samples = _supervised(
        spatial_dims, deep_supervision=True, loss_decode=loss
    )
    name = head.loss_decode.loss_name
    losses = head.loss(maps, samples)
    levels = head._pyramid(maps)
    size = [16] * spatial_dims
    mode = {2: 'bilinear', 3: 'trilinear'}[spatial_dims]
    assert [list(x.shape[2:]) for x in levels] == [
        [edge] * spatial_dims for edge in (8, 4, 2)
    ]
    scores = [head(maps)] + [
        classifier(level)
        for classifier, level in zip(
            head.level_classifiers, levels[1:], strict=True
        )
    ]
    labels = torch.stack([s.gt_sem_seg.data[0] for s in samples])
    names = [name, f'{name}_level1', f'{name}_level2']
    assert set(losses) == {*names, 'acc_seg'}
    for key, weight, logits in zip(names, (4, 2, 1), scores, strict=True):
        full = F.interpolate(logits, size, mode=mode)
        expected = (
            weight / 7 * head.loss_decode(full, labels, ignore_index=255)
        )
        torch.testing.assert_close(losses[key], expected)
    full = F.interpolate(scores[0], size, mode=mode)
    right = (full.argmax(1) == labels).float().mean()
    torch.testing.assert_close(losses['acc_seg'], 100 * right)
    sum(losses[key] for key in names).backward()
    for classifier in head.level_classifiers:
        assert classifier.weight.grad.abs().sum() > 0


@both_ranks
def test_levels_are_classified_in_training_only(spatial_dims: int) -> None:
    torch.manual_seed(1)
    plain, maps, samples = _supervised(spatial_dims)
    torch.manual_seed(1)
    head, _, _ = _supervised(spatial_dims, deep_supervision=True)
    added = head.state_dict().keys() - plain.state_dict().keys()
    assert added == {
        f'level_classifiers.{i}.{kind}'
        for i in (0, 1)
        for kind in ('weight', 'bias')
    }
    calls = []
    for classifier in head.level_classifiers:
        classifier.register_forward_hook(lambda *_: calls.append(1))
    assert torch.equal(head(maps), plain(maps))
    assert not calls
    weighted = head.loss(maps, samples)['loss_ce']
    torch.testing.assert_close(
        weighted, 4 / 7 * plain.loss(maps, samples, None)['loss_ce']
    )
    assert len(calls) == 2


def test_weights_of_four_levels_halve_and_sum_to_one() -> None:
    weights = supervision_weights(4)
    assert weights == pytest.approx([8 / 15, 4 / 15, 2 / 15, 1 / 15])
