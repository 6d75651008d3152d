"""A whole model of volumes learns: plain, in bfloat16, channels last."""

import pytest
import torch
from mmseg.structures import SegDataSample

from upernet_ext.models import EncoderDecoder
from upernet_ext.structures import GridData

GN = dict(type='GN')


def segmentor(**kwargs) -> EncoderDecoder:
    torch.manual_seed(0)
    return EncoderDecoder(
        dict(
            type='upernet_ext.ResNet',
            arch='resnet18',
            base_channels=8,
            out_indices=(1, 2, 3),
            norm_cfg=GN,
        ),
        dict(
            type='upernet_ext.UPerHead',
            channels=16,
            norm_cfg=GN,
            deep_supervision=True,
            loss_decode=dict(type='upernet_ext.DiceCELoss'),
        ),
        num_classes=3,
        in_channels=1,
        spatial_dims=3,
        **kwargs,
    ).train()


def batch() -> tuple[torch.Tensor, list[SegDataSample]]:
    """A volume whose grey is its class, of which some is ignored.

    Its deepest map is 3 x 3 x 3: of a smaller one oneDNN computes wrong
    gradients in bfloat16 (torch 2.13, 3 x 3 x 3 kernels).
    """
    labels = torch.zeros(1, 1, 48, 48, 48, dtype=torch.long)
    labels[:, :, 6:30, 9:42, 12:36] = 1
    labels[:, :, 15:24, 18:36, 18:30] = 2
    volumes = labels + 0.1 * torch.randn(labels.shape)
    labels[:, :, :3] = 255
    samples = [SegDataSample() for _ in labels]
    for sample, one in zip(samples, labels, strict=True):
        sample.gt_sem_seg = GridData(data=one)
    return volumes, samples


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('bfloat16', [False, True])
def test_loss_falls(bfloat16: bool, channels_last: bool) -> None:
    model = segmentor(channels_last=channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    volumes, samples = batch()
    history = []
    for _ in range(10):
        with torch.autocast('cpu', torch.bfloat16, enabled=bfloat16):
            losses = model.loss(volumes, samples)
        loss, logged = model.parse_losses(losses)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.75 * history[0]
    level_losses = [f'decode.loss_dice_ce_level{i}' for i in (1, 2)]
    assert {*level_losses, 'decode.loss_dice_ce'} < set(logged)
    assert all(losses[name].dtype == torch.float32 for name in level_losses)


@torch.no_grad()
def test_channels_last_changes_no_number() -> None:
    plain, last = segmentor(), segmentor(channels_last=True)
    volumes, samples = batch()
    for model in (plain, last):
        model.decode_head.dropout = None
    expected, found = (m.loss(volumes, samples) for m in (plain, last))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)
    weight = last.decode_head.fpn_bottleneck.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
