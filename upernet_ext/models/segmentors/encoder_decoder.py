"""Backbone, neck and heads, put together so that their numbers agree."""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence

import torch
from mmengine.config import ConfigDict
from mmengine.dist import all_reduce, get_world_size
from mmengine.logging import MMLogger, print_log
from mmseg.models import BaseSegmentor
from mmseg.models import EncoderDecoder as MMSegEncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from ...interop import Receipt, load_pretrained
from ...layers.rank import (
    check_spatial_dims,
    memory_format,
    pad_to_multiple,
    resize,
    revert_sync_batch_norm,
)
from ...registry import MODELS
from ...structures import GridData
from ..backbones import (
    Levels,
    as_maps,
    backbone_levels,
    build_backbone,
    fill,
    neck_levels,
    type_of,
)
from ..decode_heads import DecodeHead, scores_to_labels
from ..tuning import reset_lora
from .saved_model import SavedModel
from .sliding_window import batched, window_slices
from .tuned_model import TunedModel
from .views import View, views

TEST_DEFAULTS = dict(
    mode='whole',
    crop_size=None,
    stride=None,
    window_batch=4,
    keep_logits=False,
    tta=None,
)
_ACTIVATIONS = {
    None: lambda logits: logits,
    'sigmoid': torch.sigmoid,
    'softmax': lambda logits: logits.softmax(1),
}


@MODELS.register_module()
class EncoderDecoder(TunedModel, SavedModel, MMSegEncoderDecoder):
    """mmsegmentation's ``EncoderDecoder`` for every backbone and rank.

    The backbone is built first and asked (or measured) for its channels and
    strides; what neck and heads need of it, and of the dataset, is filled
    into their configs. Whatever a config states itself must agree.

    Args:
        backbone: Config of any library's backbone, with ``pretrained``; or a
            built one.
        decode_head: Config of the head; ``upernet_ext.UPerHead``.
        neck: Config of the neck, for backbones whose maps are no pyramid.
        auxiliary_head: Config of a head, or of several, for training only.
        num_classes: Classes; 1 for one foreground class by sigmoid.
        spatial_dims: 2 or 3.
        in_channels: Channels of the image.
        multi_label: Independent classes: a pixel may have several.
        classifier_activation: ``'sigmoid'`` or ``'softmax'`` of what
            ``model(inputs)`` returns; ``None`` for logits. Losses and
            predictions are not touched.
        tuning: What of the backbone is trained; by default all of it.
            ``dict(type='lora', targets=['qkv'], rank=8, alpha=16.0,
            dropout=0.05)``: low-rank adapters beside frozen weights.
            ``dict(type='freeze', what=...)``: ``'all'`` is frozen,
            ``'all_but_norms'``, or the first ``k`` blocks.
        channels_last: Keep maps in memory pixel by pixel; same numbers,
            faster for CNNs in low precision and on the CPU.
        data_preprocessor: Config; ``upernet_ext.SegDataPreProcessor``.
        train_cfg: Passed to foreign heads.
        test_cfg: ``mode``: ``'whole'`` or ``'slide'``; ``crop_size`` and
            ``stride`` of the windows, in pixels; ``window_batch``: windows at
            a time; ``keep_logits``: put ``seg_logits`` ``(K, *S)`` into each
            sample (with ``tta``: mean probabilities); ``tta``:
            ``dict(scales=(0.5, 1.0), flip_axes=(-1,))``. The threshold of a
            sigmoid is the decode head's.
        init_cfg: mmengine's initialisation config.

    Attributes:
        levels: Channels and strides of what the heads get.
        receipt: Of the backbone's published weights, once they are loaded.

    Raises:
        ValueError: Numbers that disagree, naming both sides.
    """

    receipt: Receipt | None = None

    def __init__(
        self,
        backbone: Mapping | nn.Module,
        decode_head: Mapping,
        *,
        neck: Mapping | None = None,
        auxiliary_head: Mapping | Sequence[Mapping] | None = None,
        num_classes: int | None = None,
        spatial_dims: int = 2,
        in_channels: int = 3,
        multi_label: bool = False,
        classifier_activation: str | None = None,
        tuning: Mapping | None = None,
        channels_last: bool = False,
        data_preprocessor: Mapping | None = None,
        train_cfg: Mapping | None = None,
        test_cfg: Mapping | None = None,
        init_cfg: Mapping | None = None,
    ) -> None:
        # mmseg's own __init__ builds everything in one go: it is left out.
        BaseSegmentor.__init__(
            self,
            data_preprocessor=data_preprocessor
            or dict(type='upernet_ext.SegDataPreProcessor'),
            init_cfg=init_cfg,
        )
        if classifier_activation not in _ACTIVATIONS:
            raise ValueError(
                f'classifier_activation must be one of {list(_ACTIVATIONS)}, '
                f'got {classifier_activation!r}'
            )
        self.classifier_activation = classifier_activation
        self.spatial_dims = check_spatial_dims(spatial_dims)
        self.train_cfg = train_cfg
        self.test_cfg = self._test_cfg(test_cfg)
        self.backbone, self.pretrained = build_backbone(
            backbone, in_channels=in_channels, spatial_dims=spatial_dims
        )
        levels = backbone_levels(
            self.backbone, in_channels=in_channels, spatial_dims=spatial_dims
        )
        self._backbone_was_built = isinstance(backbone, nn.Module)
        if self._backbone_was_built:
            kind = type(backbone).__name__
            # mmengine's word for weights that init_weights leaves alone.
            backbone.is_init = True
        else:
            kind = backbone['type']
        source = f'the backbone {kind}'
        if neck is not None:
            self.neck = self._build_neck(neck, levels, source)
            levels = neck_levels(self.neck, levels)
            source = f'the neck {neck["type"]}'
        self.levels = levels
        if num_classes is None:
            num_classes = decode_head.get('num_classes')
        numbers = dict(
            spatial_dims=(spatial_dims, 'the model'),
            num_classes=(num_classes, 'the dataset'),
            multi_label=(multi_label, 'the model'),
        )
        self._init_decode_head(
            self._fill_head(decode_head, 'decode_head', source, numbers)
        )
        if auxiliary_head is None or isinstance(auxiliary_head, Mapping):
            auxiliary = auxiliary_head and self._fill_head(
                auxiliary_head, 'auxiliary_head', source, numbers
            )
        else:
            auxiliary = [
                self._fill_head(cfg, f'auxiliary_head[{i}]', source, numbers)
                for i, cfg in enumerate(auxiliary_head)
            ]
        self._init_auxiliary_head(auxiliary)
        self.use_sigmoid = multi_label or self.out_channels == 1
        # Borrowed modules may hold SyncBN, which one process cannot run.
        revert_sync_batch_norm(self)
        self.memory_format = memory_format(spatial_dims, channels_last)
        self.to(memory_format=self.memory_format)
        if tuning is not None:
            self.tune(tuning)

    @staticmethod
    def _test_cfg(test_cfg: Mapping | None) -> ConfigDict:
        cfg = dict(test_cfg or {})
        unknown = sorted(set(cfg) - set(TEST_DEFAULTS))
        if unknown:
            raise ValueError(
                f'model.test_cfg has no key {unknown}; there are '
                f'{sorted(TEST_DEFAULTS)}'
            )
        cfg = {**TEST_DEFAULTS, **cfg}
        if cfg['mode'] not in ('whole', 'slide'):
            raise ValueError(
                f"model.test_cfg.mode must be 'whole' or 'slide', "
                f'got {cfg["mode"]!r}'
            )
        if cfg['mode'] == 'slide' and not (cfg['crop_size'] and cfg['stride']):
            raise ValueError(
                "model.test_cfg with mode='slide' needs crop_size and stride"
            )
        return ConfigDict(cfg)

    def _build_neck(
        self, cfg: Mapping, levels: Levels, source: str
    ) -> nn.Module:
        channels = list(levels.channels)
        return MODELS.build(
            fill(
                cfg,
                'neck',
                in_channels=(channels, source),
                embed_dim=(channels[0], source),
                spatial_dims=(self.spatial_dims, 'the model'),
            )
        )

    def _fill_head(
        self, cfg: Mapping, part: str, source: str, numbers: Mapping
    ) -> dict:
        cls = type_of(cfg)
        channels = list(self.levels.channels)
        index = cfg.get('in_index')
        if index is None and hasattr(cls, 'select_levels'):
            names = inspect.signature(cls.select_levels).parameters
            options = {k: v for k, v in cfg.items() if k in names}
            cfg = {k: v for k, v in cfg.items() if k not in names}
            index = cls.select_levels(self.levels.strides, **options)
        elif index is None:
            index = -1
        wanted = [index] if isinstance(index, int) else index
        if any(not -len(channels) <= i < len(channels) for i in wanted):
            raise ValueError(
                f'{part}.in_index={index}, but {source} gives '
                f'{len(channels)} levels ({self.levels}); change in_index, '
                "or the backbone's out_indices"
            )
        taken = [channels[i] for i in wanted]
        if not issubclass(cls, DecodeHead):
            if self.spatial_dims != 2 or numbers['multi_label'][0]:
                raise ValueError(
                    f'{part} type {cfg["type"]!r} takes images and classes '
                    'that exclude each other only; use a head of upernet_ext'
                )
            numbers = dict(num_classes=numbers['num_classes'])
        return fill(
            cfg,
            part,
            in_channels=(
                taken[0] if isinstance(index, int) else taken,
                source,
            ),
            in_index=(index, source),
            **numbers,
        )

    # Weights ---------------------------------------------------------------

    def init_weights(self) -> None:
        """Initialise, then load the backbone's ``pretrained`` with a receipt.

        Says loudly when the backbone starts from random weights.
        """
        super().init_weights()
        reset_lora(self.backbone)
        self.load_pretrained()

    def _dump_init_info(self) -> None:
        # mmengine's line a parameter belongs into the log file of a run;
        # without one it would fill the terminal.
        handlers = MMLogger.get_current_instance().handlers
        if any(isinstance(h, logging.FileHandler) for h in handlers):
            super()._dump_init_info()

    def load_pretrained(self) -> Receipt | None:
        """Load the backbone's published weights, all of them or none."""
        if self._backbone_was_built:
            return None
        if self.pretrained is None:
            print_log(
                'The backbone starts from RANDOM weights: model.backbone has '
                'no `pretrained`. Give it a path or a URL, unless you train '
                'from scratch on purpose.',
                logger='current',
                level=logging.WARNING,
            )
            return None
        self.receipt = load_pretrained(self.backbone, self.pretrained)
        print_log(f'Backbone: {self.receipt.summary()}', logger='current')
        return self.receipt

    # Training --------------------------------------------------------------

    def loss(
        self, inputs: Tensor, data_samples: Sequence[SegDataSample]
    ) -> dict[str, Tensor]:
        """Compute the losses of all heads.

        Args:
            inputs: ``(N, C, *S)``, normalised.
            data_samples: With ``gt_sem_seg``.

        Returns:
            ``decode.loss_ce``, ``decode.acc_seg``, ``aux.loss_ce``, ...
        """
        padded = self._whole_patches(inputs)
        pads = [
            p - s
            for p, s in zip(padded.shape[2:], inputs.shape[2:], strict=True)
        ]
        if any(pads):
            flat = [n for p in reversed(pads) for n in (0, p)]
            data_samples = [sample.clone() for sample in data_samples]
            for sample in data_samples:
                labels = F.pad(
                    sample.gt_sem_seg.data,
                    flat,
                    value=self.decode_head.ignore_index,
                )
                sample.gt_sem_seg = GridData(data=labels)
        return super().loss(padded, data_samples)

    def _whole_patches(self, inputs: Tensor) -> Tensor:
        """Pad to whole patches, so that maps and pixels stay aligned."""
        patch = getattr(self.backbone, 'patch_size', None)
        if isinstance(patch, tuple) and len(patch) == self.spatial_dims:
            return pad_to_multiple(inputs, patch)
        return inputs

    def parse_losses(
        self, losses: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the losses; the logged values are means over all ranks."""
        loss, log_vars = super().parse_losses(losses)
        if get_world_size() > 1:
            values = torch.stack([v.detach() for v in log_vars.values()])
            all_reduce(values, op='mean')
            log_vars = dict(zip(log_vars, values, strict=True))
        return loss, log_vars

    def extract_feat(self, inputs: Tensor) -> Sequence[Tensor]:
        """Run backbone and neck: ``(N, C, *S)`` -> one map a level."""
        inputs = inputs.contiguous(memory_format=self.memory_format)
        features = as_maps(self.backbone(inputs))
        return self.neck(features) if self.with_neck else features

    @property
    def encoder(self) -> nn.Module:
        """The backbone, by its other name."""
        return self.backbone

    # Inference -------------------------------------------------------------

    def _forward(
        self,
        inputs: Tensor,
        data_samples: Sequence[SegDataSample] | None = None,
    ) -> Tensor:
        """Compute what ``model(inputs)`` returns.

        Returns:
            ``(N, K, *S)``, always at the input's size: logits, or what
            ``classifier_activation`` makes of them.
        """
        logits = self.encode_decode(inputs)
        return _ACTIVATIONS[self.classifier_activation](logits)

    def encode_decode(
        self, inputs: Tensor, batch_img_metas: Sequence[dict] | None = None
    ) -> Tensor:
        """Compute logits at the input's size, ``(N, K, *S)``.

        Where the backbone works in patches the input is padded to whole ones,
        and the logits cropped back.
        """
        size = inputs.shape[2:]
        inputs = self._whole_patches(inputs)
        padded = inputs.shape[2:]
        features = self.extract_feat(inputs)
        if isinstance(self.decode_head, DecodeHead):
            logits = resize(
                self.decode_head(features), padded, self.align_corners
            )
        else:
            logits = self.decode_head.predict(
                features, [dict(img_shape=padded)] * len(inputs), None
            )
        window = tuple(slice(s) for s in size)
        return logits[(..., *window)]

    def slide_inference(
        self, inputs: Tensor, batch_img_metas: Sequence[dict] | None = None
    ) -> Tensor:
        """Average the logits of overlapping windows, ``(N, K, *S)``.

        Windows are those of mmsegmentation, run ``window_batch`` at a time.
        """
        cfg = self.test_cfg
        windows = window_slices(inputs.shape[2:], cfg.crop_size, cfg.stride)
        total = inputs.new_zeros(
            len(inputs), self.out_channels, *inputs.shape[2:]
        )
        count = inputs.new_zeros(1, 1, *inputs.shape[2:])
        for chunk in batched(windows, cfg.window_batch):
            crops = torch.cat([inputs[(..., *w)] for w in chunk])
            logits = self.encode_decode(crops).split(len(inputs))
            for window, part in zip(chunk, logits, strict=True):
                total[(..., *window)] += part
                count[(..., *window)] += 1
        return total / count

    def inference(
        self, inputs: Tensor, batch_img_metas: Sequence[dict] | None = None
    ) -> Tensor:
        """Compute logits ``(N, K, *S)``, whole or by sliding windows."""
        if self.test_cfg.mode == 'slide':
            return self.slide_inference(inputs)
        return self.encode_decode(inputs)

    @torch.no_grad()
    def predict(
        self,
        inputs: Tensor,
        data_samples: Sequence[SegDataSample] | None = None,
    ) -> list[SegDataSample]:
        """Segment a batch.

        Args:
            inputs: ``(N, C, *S)``, normalised and padded.
            data_samples: Their ``img_shape`` is what is not padding, and
                their ``ori_shape`` the size of the result; by default ``S``.

        Returns:
            The samples with ``pred_sem_seg``: ``(1, *ori_shape)`` class
            indices (0 or 1 for a single class), or ``(K, *ori_shape)`` of 0
            and 1; and with ``seg_logits`` where ``test_cfg.keep_logits``.
        """
        if data_samples is None:
            data_samples = [SegDataSample() for _ in inputs]
        looks = views(self.test_cfg.tta, self.spatial_dims)
        averaged = looks != [View()]
        if averaged:
            scores = self._mean_of_views(inputs, data_samples, looks)
        else:
            scores = (row[None] for row in self.inference(inputs))
        for score, sample in zip(scores, data_samples, strict=True):
            self._decide(score, sample, averaged=averaged)
        return list(data_samples)

    def _mean_of_views(
        self,
        inputs: Tensor,
        samples: Sequence[SegDataSample],
        looks: Sequence[View],
    ) -> Iterator[Tensor]:
        """Yield each image's mean probabilities ``(1, K, *ori_shape)``."""
        for image, sample in zip(inputs, samples, strict=True):
            image = self._content(image[None], sample)
            size = sample.metainfo.get('ori_shape', image.shape[2:])
            total = 0
            for view in looks:
                scaled = resize(
                    image,
                    [max(1, round(s * view.scale)) for s in image.shape[2:]],
                )
                logits = self.inference(scaled.flip(view.flipped))
                logits = resize(
                    logits.flip(view.flipped), size, self.align_corners
                )
                total = total + (
                    logits.sigmoid() if self.use_sigmoid else logits.softmax(1)
                )
            yield total / len(looks)

    @staticmethod
    def _content(x: Tensor, sample: SegDataSample) -> Tensor:
        """Cut the padding off ``(1, K, *S)``."""
        size = sample.metainfo.get('img_shape', x.shape[2:])[: x.ndim - 2]
        return x[(..., *(slice(s) for s in size))]

    def _decide(
        self, scores: Tensor, sample: SegDataSample, *, averaged: bool
    ) -> None:
        """Write the prediction, at the original size, into the sample.

        Args:
            scores: Logits ``(1, K, *S)`` of the padded image; or, averaged,
                probabilities ``(1, K, *ori_shape)``.
            sample: Gets ``pred_sem_seg``.
            averaged: Which of the two.
        """
        if not averaged:
            scores = self._content(scores, sample)
            if sample.metainfo.get('flip'):
                axis = {'horizontal': -1, 'vertical': -2}
                scores = scores.flip(axis[sample.flip_direction])
            size = tuple(sample.metainfo.get('ori_shape', scores.shape[2:]))
            scores = resize(
                scores, size[: scores.ndim - 2], self.align_corners
            )
        threshold = self.decode_head.threshold
        if averaged and self.use_sigmoid:
            labels = (scores > threshold).long()
        else:
            labels = scores_to_labels(
                scores, use_sigmoid=self.use_sigmoid, threshold=threshold
            )
        sample.pred_sem_seg = GridData(data=labels[0])
        if self.test_cfg.keep_logits:
            sample.seg_logits = GridData(data=scores[0])
