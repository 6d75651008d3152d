"""Labels at the original size, whole and by sliding windows.

The network is one strided convolution and a classifier, so that what is
measured is what comes behind a network.
"""

from collections.abc import Sequence
from types import SimpleNamespace

import torch
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS as MMSEG_MODELS
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from upernet_ext.layers.rank import conv
from upernet_ext.registry import MODELS

from ..peers import peer
from ..row import Call, Case, Goals, Peer, Results, Row
from ..samples import predicted, unlabelled
from .heads import CLASSES
from .losses import ORGANS

_STRIDE, _WIDTH = 4, 8


class Patches(BaseModule):
    """One map at stride 4, of one convolution.

    Args:
        in_channels: Of the image.
        spatial_dims: 2 or 3.
    """

    def __init__(self, in_channels: int = 3, *, spatial_dims: int = 2) -> None:
        super().__init__()
        self.proj = conv(
            in_channels,
            _WIDTH,
            _STRIDE,
            stride=_STRIDE,
            spatial_dims=spatial_dims,
        )
        self.out_channels = (_WIDTH,)
        self.out_strides = ((_STRIDE,) * spatial_dims,)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Return the map."""
        return (self.proj(x),)


def _head(case: Case, kind: str) -> dict:
    return dict(
        type=kind,
        in_channels=_WIDTH,
        channels=_WIDTH,
        num_convs=0,
        concat_input=False,
        num_classes=case['classes'],
    )


def _test_cfg(case: Case) -> dict:
    windows = {k: case[k] for k in ('crop_size', 'stride') if k in case.sizes}
    return dict(mode='slide' if windows else 'whole', **windows)


def _our_model(case: Case) -> nn.Module:
    rank = len(case['image'])
    test_cfg = _test_cfg(case)
    if rank == 3:
        test_cfg.update(window_weight='uniform')
    model = MODELS.build(
        dict(
            type='upernet_ext.EncoderDecoder',
            backbone=dict(type=Patches),
            decode_head=_head(case, 'upernet_ext.FCNHead'),
            spatial_dims=rank,
            in_channels=case['in_channels'],
            test_cfg=test_cfg,
        )
    )
    nn.init.normal_(model.decode_head.conv_seg.weight)
    return case.place(model).eval()


def _image(case: Case) -> Tensor:
    """Draw a smooth image: neighbours agree, as in a photograph."""
    size = case['image']
    coarse = case.normal(1, case['in_channels'], *[-(-s // 8) for s in size])
    mode = 'bilinear' if len(size) == 2 else 'trilinear'
    return F.interpolate(coarse, size, mode=mode).contiguous()


def _ours(case: Case) -> Call:
    model, image = _our_model(case), _image(case)

    @torch.no_grad()
    def call() -> Results:
        samples = unlabelled(image, case['original'])
        return dict(labels=predicted(model.predict(image, samples)))

    return call


def _mmseg(case: Case) -> Call:
    ours = _our_model(case)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MMSEG_MODELS.build(
            dict(
                type='EncoderDecoder',
                backbone=dict(type=Patches),
                decode_head=_head(case, 'FCNHead'),
                test_cfg=ConfigDict(_test_cfg(case)),
            )
        )
    model.load_state_dict(ours.state_dict())
    case.place(model).eval()
    image = _image(case)

    @torch.no_grad()
    def call() -> Results:
        samples = unlabelled(image, case['original'])
        return dict(labels=predicted(model.predict(image, samples)))

    return call


def _transformers(case: Case) -> Call:
    name = 'transformers.models.segformer.image_processing_pil_segformer'
    processor = peer(name).SegformerImageProcessorPil()
    model, image = _our_model(case), _image(case)

    @torch.no_grad()
    def call() -> Results:
        logits = model.decode_head(model.backbone(image))
        # Its UPerNet gives logits of the input's size.
        logits = F.interpolate(
            logits, image.shape[2:], mode='bilinear', align_corners=False
        )
        labels = processor.post_process_semantic_segmentation(
            SimpleNamespace(logits=logits), [case['original']]
        )
        return dict(labels={'0': labels[0][None]})

    return call


def _monai(case: Case) -> Call:
    inferers = peer('monai.inferers')
    model, image = _our_model(case), _image(case)

    def logits(windows: Tensor) -> Tensor:
        return model.encode_decode(windows)

    @torch.no_grad()
    def call() -> Results:
        # Four windows at a time are our default too.
        mean = inferers.sliding_window_inference(
            image, case['crop_size'], 4, logits, overlap=0.5, mode='constant'
        )
        return dict(labels={'0': mean.argmax(1)})

    return call


def _volume(size: Sequence[int], window: int) -> dict:
    return dict(
        classes=ORGANS,
        in_channels=1,
        image=tuple(size),
        original=tuple(size),
        crop_size=(window,) * 3,
        stride=(window // 2,) * 3,
    )


_PHOTO = dict(
    classes=CLASSES, in_channels=3, image=(512, 768), original=(683, 1024)
)
_SLIDING = dict(_PHOTO, crop_size=(512, 512), stride=(341, 341))

ROWS = (
    Row(
        'slide',
        'slide + resize + argmax, 683 x 1024, 150 classes',
        _ours,
        (Peer('mmseg', _mmseg, Goals(time=0.35, memory=0.08)),),
        reduced=_SLIDING,
        full=_SLIDING,
        floating=False,
    ),
    Row(
        'post-process',
        'resize + argmax, 683 x 1024, 150 classes',
        _ours,
        (Peer('transformers', _transformers, Goals(time=0.35, memory=0.08)),),
        reduced=_PHOTO,
        full=_PHOTO,
        floating=False,
    ),
    Row(
        'slide-3d',
        'sliding window on a volume + argmax, 14 classes',
        _ours,
        (Peer('MONAI', _monai, Goals(time=0.65, memory=0.50)),),
        reduced=_volume((96, 112, 96), 48),
        full=_volume((192, 224, 192), 96),
        floating=False,
    ),
)
