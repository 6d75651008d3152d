"""Neck, head and loss in 2D, forward and backward."""

from collections.abc import Callable, Mapping, Sequence

from mmseg.models import MultiLevelNeck as MMSegMultiLevelNeck
from mmseg.models import UPerHead as MMSegUPerHead
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from upernet_ext.interop.huggingface import from_upernet_head, to_upernet_head
from upernet_ext.models import MultiLevelNeck, UPerHead

from ..compare import Logits, gradients
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

CLASSES = 150
BN = dict(type='BN')
# Not mmseg's default, which divides by ignored pixels too.
MMSEG_LOSS = dict(type='mmseg.CrossEntropyLoss', avg_non_ignore=True)
# A ViT's tokens are at stride 16; a pyramid's finest level is at 4.
VIT_STRIDE, PYRAMID_STRIDE = 16, 4
_HEAD = dict(num_classes=CLASSES, norm_cfg=BN, dropout_ratio=0)

ToLoss = Callable[[Sequence[Tensor], Tensor], Tensor]


def training_call(
    module: nn.Module,
    to_loss: ToLoss,
    maps: Sequence[Tensor],
    labels: Tensor,
    *,
    classifier: nn.Module,
) -> Call:
    """Compute the loss, and its gradients for maps and parameters."""
    logits = Logits(classifier)
    maps = [x.requires_grad_() for x in maps]
    leaves = dict(module.named_parameters())
    leaves |= {f'map{i}': x for i, x in enumerate(maps)}

    def call() -> Results:
        loss = to_loss(maps, labels)
        return dict(
            loss=dict(loss=loss.detach()),
            gradients=gradients(loss, leaves),
            logits=logits.take(),
        )

    return call


def our_head(case: Case, channels: Sequence[int]) -> UPerHead:
    """Build our head; its weights follow from the seed."""
    head = UPerHead(channels, case['hidden'], **_HEAD)
    nn.init.normal_(head.conv_seg.weight, std=0.1)
    return case.place(head).train()


def mmseg_head(case: Case, channels: Sequence[int]) -> MMSegUPerHead:
    """Build mmseg's head with our weights."""
    ours = our_head(case, channels)
    head = MMSegUPerHead(
        in_channels=list(channels),
        channels=case['hidden'],
        in_index=[0, 1, 2, 3],
        loss_decode=MMSEG_LOSS,
        **_HEAD,
    )
    head.load_state_dict(ours.state_dict())
    return case.place(head).train()


def _pyramid(case: Case, channels: Sequence[int]) -> tuple[list, Tensor]:
    """Draw maps at strides 4, 8, 16, 32, and labels."""
    image, batch = case['image'], case['batch']
    maps = [
        case.normal(batch, c, *[image // PYRAMID_STRIDE // 2**i] * 2)
        for i, c in enumerate(channels)
    ]
    return maps, case.labels(batch, image, image, num_classes=CLASSES)


# Neck, head and loss ------------------------------------------------------


class _NeckAndHead(nn.Module):
    def __init__(self, neck: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.neck, self.head = neck, head

    def forward(self, maps: Sequence[Tensor], labels: Tensor) -> Tensor:
        levels = self.neck(maps)
        return self.head.loss(levels, labelled(labels), None)['loss_ce']


def _our_neck(case: Case) -> nn.Module:
    neck = MultiLevelNeck([case['channels']] * 4, case['hidden'])
    return case.place(neck)


def _tokens(case: Case) -> tuple[list, Tensor]:
    image, batch = case['image'], case['batch']
    side = image // VIT_STRIDE
    maps = [case.normal(batch, case['channels'], side, side) for _ in range(4)]
    return maps, case.labels(batch, image, image, num_classes=CLASSES)


def _our_neck_and_head(case: Case) -> Call:
    model = _NeckAndHead(_our_neck(case), our_head(case, _hidden(case)))
    return training_call(
        model, model, *_tokens(case), classifier=model.head.conv_seg
    )


def _mmseg_neck_and_head(case: Case) -> Call:
    ours = _our_neck(case)
    head = mmseg_head(case, _hidden(case))
    neck = MMSegMultiLevelNeck(
        [case['channels']] * 4, case['hidden'], scales=[4, 2, 1, 0.5]
    )
    neck.load_state_dict(ours.state_dict())
    model = _NeckAndHead(case.place(neck), head)
    return training_call(
        model, model, *_tokens(case), classifier=model.head.conv_seg
    )


def _hidden(case: Case) -> list[int]:
    return [case['hidden']] * 4


# Head and loss ------------------------------------------------------------


def _channels(case: Case) -> Sequence[int]:
    return case['channels']


def _head_call(case: Case, head: nn.Module) -> Call:
    def to_loss(maps: Sequence[Tensor], labels: Tensor) -> Tensor:
        return head.loss(maps, labelled(labels), None)['loss_ce']

    drawn = _pyramid(case, _channels(case))
    return training_call(head, to_loss, *drawn, classifier=head.conv_seg)


def _our_call(case: Case) -> Call:
    return _head_call(case, our_head(case, _channels(case)))


def _mmseg_call(case: Case) -> Call:
    return _head_call(case, mmseg_head(case, _channels(case)))


def _full_size_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Upsample, then cross entropy, as transformers' UPerNet."""
    logits = F.interpolate(
        logits, labels.shape[1:], mode='bilinear', align_corners=False
    )
    return F.cross_entropy(logits, labels, ignore_index=255)


def _transformers_call(case: Case) -> Call:
    upernet = peer('transformers.models.upernet.modeling_upernet')
    config = upernet.UperNetConfig(
        hidden_size=case['hidden'], num_labels=CLASSES
    )
    ours = our_head(case, _channels(case))
    head = upernet.UperNetHead(config, list(_channels(case)))
    head.load_state_dict(to_upernet_head(ours.state_dict()))
    case.place(head).train()

    def to_loss(maps: Sequence[Tensor], labels: Tensor) -> Tensor:
        return _full_size_loss(head(maps), labels)

    drawn = _pyramid(case, _channels(case))
    return training_call(head, to_loss, *drawn, classifier=head.classifier)


def _smp_call(case: Case) -> Call:
    decoder = peer('segmentation_models_pytorch.decoders.upernet.decoder')
    channels, hidden = list(_channels(case)), case['hidden']
    # Its two finest levels are not used.
    model = nn.Sequential(
        decoder.UPerNetDecoder([3, 0, *channels], 5, hidden),
        nn.Conv2d(hidden, CLASSES, 1),
    )
    case.place(model).train()

    def to_loss(maps: Sequence[Tensor], labels: Tensor) -> Tensor:
        return _full_size_loss(model([None, None, *maps]), labels)

    drawn = _pyramid(case, channels)
    return training_call(model, to_loss, *drawn, classifier=model[-1])


def _from_transformers(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return from_upernet_head(values)


_HEAD_GOALS = Goals(time=0.60, memory=0.45)
_HEAD_PEERS = (
    Peer('mmseg', _mmseg_call, _HEAD_GOALS, largest_error=MMSEG_LOSS_ERROR),
    Peer(
        'transformers',
        _transformers_call,
        _HEAD_GOALS,
        rename=_from_transformers,
    ),
    Peer(
        'smp',
        _smp_call,
        _HEAD_GOALS,
        same=False,
        note='layer norm of every map in front; no accuracy',
    ),
)

ROWS = (
    Row(
        'neck-head-loss',
        'neck + head + loss, ViT pyramid, forward + backward',
        _our_neck_and_head,
        (
            Peer(
                'mmseg',
                _mmseg_neck_and_head,
                Goals(time=0.50, memory=0.50),
                largest_error=MMSEG_LOSS_ERROR,
            ),
        ),
        reduced=dict(channels=384, image=256, hidden=192, batch=2),
        full=dict(channels=1024, image=512, hidden=512, batch=2),
        gpu=dict(channels=1024, image=512, hidden=512, batch=16),
        smooth=False,
    ),
    Row(
        'head-loss',
        'head + loss, ViT pyramid after its neck, forward + backward',
        _our_call,
        _HEAD_PEERS,
        reduced=dict(channels=[128] * 4, image=192, hidden=128, batch=2),
        full=dict(channels=[512] * 4, image=512, hidden=512, batch=2),
        gpu=dict(channels=[512] * 4, image=512, hidden=512, batch=16),
        smooth=False,
    ),
    Row(
        'head-loss-swin',
        'head + loss, Swin or ConvNeXt pyramid, forward + backward',
        _our_call,
        _HEAD_PEERS,
        reduced=dict(
            channels=[96, 192, 384, 768], image=192, hidden=128, batch=2
        ),
        full=dict(
            channels=[96, 192, 384, 768], image=512, hidden=512, batch=2
        ),
        gpu=dict(
            channels=[96, 192, 384, 768], image=512, hidden=512, batch=16
        ),
        smooth=False,
    ),
)
