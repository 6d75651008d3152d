"""Losses of low-resolution logits, forward and backward."""

from collections.abc import Callable

from mmseg.models import FCNHead as MMSegFCNHead
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from upernet_ext.models import DiceCELoss, FCNHead

from ..compare import gradients
from ..peers import peer
from ..row import (
    MMSEG_LOSS_ERROR,
    Call,
    Case,
    Goals,
    Peer,
    Results,
    Row,
)
from ..samples import labelled
from .heads import CLASSES, MMSEG_LOSS

_OHEM = dict(type='OHEMPixelSampler', thresh=0.7, min_kept=100_000)
_BARE = dict(num_convs=0, concat_input=False, num_classes=CLASSES)
ORGANS = 14


def _call(case: Case, to_loss: Callable[[Tensor, Tensor], Tensor]) -> Call:
    rank, low, factor = case['spatial_dims'], case['low'], case['factor']
    batch, classes = case['batch'], case['classes']
    logits = case.normal(batch, classes, *[low] * rank, scale=3)
    logits.requires_grad_()
    labels = case.labels(
        batch,
        *[low * factor] * rank,
        num_classes=classes,
        ignored=case['ignored'],
    )

    def call() -> Results:
        loss = to_loss(logits, labels)
        return dict(
            loss=dict(loss=loss.detach()),
            gradients=gradients(loss, dict(logits=logits)),
        )

    return call


# With its accuracy, as in training ----------------------------------------


def _sampler(case: Case) -> dict:
    # Given as a module too, the sampler would need mmseg's default scope.
    return {k: v for k, v in case.sizes.items() if k == 'sampler'}


def _ours(case: Case) -> Call:
    head = case.place(FCNHead(8, 8, **_BARE, **_sampler(case)))

    def to_loss(logits: Tensor, labels: Tensor) -> Tensor:
        return head.loss_by_feat(logits, labelled(labels))['loss_ce']

    return _call(case, to_loss)


def _mmseg(case: Case) -> Call:
    head = MMSegFCNHead(
        in_channels=8,
        channels=8,
        loss_decode=MMSEG_LOSS,
        **_BARE,
        **_sampler(case),
    )
    case.place(head)

    def to_loss(logits: Tensor, labels: Tensor) -> Tensor:
        return head.loss_by_feat(logits, labelled(labels))['loss_ce']

    return _call(case, to_loss)


# Volumes ------------------------------------------------------------------


def _our_dice(case: Case) -> Call:
    loss = DiceCELoss(include_background=True)
    return _call(case, loss)


def _monai_dice(case: Case) -> Call:
    dice = peer('monai.losses').DiceCELoss(
        to_onehot_y=True, softmax=True, smooth_nr=1e-5, smooth_dr=1e-5
    )

    def to_loss(logits: Tensor, labels: Tensor) -> Tensor:
        full = F.interpolate(
            logits, labels.shape[1:], mode='trilinear', align_corners=False
        )
        return dice(full, labels[:, None])

    return _call(case, to_loss)


_IMAGES = dict(spatial_dims=2, classes=CLASSES, ignored=True, factor=4)
_SMALL = dict(_IMAGES, low=64, batch=1)
_FULL = dict(_IMAGES, low=128, batch=2)
_GPU = dict(_FULL, batch=16)
_VOLUMES = dict(
    spatial_dims=3, classes=ORGANS, ignored=False, low=24, factor=4, batch=1
)

ROWS = (
    Row(
        'upsample-ce',
        'upsample + cross entropy + accuracy, 150 classes, 512 x 512',
        _ours,
        (
            Peer(
                'mmseg',
                _mmseg,
                Goals(time=0.45, memory=0.08),
                largest_error=MMSEG_LOSS_ERROR,
            ),
        ),
        reduced=_SMALL,
        full=_FULL,
        gpu=_GPU,
    ),
    Row(
        'upsample-ohem',
        'upsample + OHEM cross entropy + accuracy, 150 classes, 512 x 512',
        _ours,
        (
            Peer(
                'mmseg',
                _mmseg,
                Goals(time=0.60, memory=0.10),
                largest_error=MMSEG_LOSS_ERROR,
            ),
        ),
        # A quarter of the pixels, so a quarter of them are kept.
        reduced=dict(_SMALL, sampler=dict(_OHEM, min_kept=25_000)),
        full=dict(_FULL, sampler=_OHEM),
        gpu=dict(_GPU, sampler=_OHEM),
    ),
    Row(
        'upsample-dice-ce-3d',
        'upsample + Dice + cross entropy, 14 classes, 96 x 96 x 96',
        _our_dice,
        (Peer('MONAI', _monai_dice, Goals(time=0.22, memory=0.05)),),
        reduced=_VOLUMES,
        full=_VOLUMES,
        gpu=dict(_VOLUMES, batch=2),
    ),
)
