"""Backbone, neck and heads, put together so that their numbers agree."""

import inspect
import logging
from collections.abc import Mapping, Sequence

import torch
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
    order_memory,
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
from ..decode_heads import DecodeHead
from ..tuning import reset_lora
from .lazy_logits import LazyLogits
from .predicting_model import PredictingModel, filled_test_cfg
from .saved_model import SavedModel
from .tuned_model import TunedModel

_ACTIVATIONS = {
    None: lambda logits: logits,
    'sigmoid': torch.sigmoid,
    'softmax': lambda logits: logits.softmax(1),
}


@MODELS.register_module()
class EncoderDecoder(
    TunedModel, SavedModel, PredictingModel, MMSegEncoderDecoder
):
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
        spacing: Of a volume's voxels (z, y, x), in mm; by default the same
            along all axes. Thick slices are halved later; images have no use
            for it.
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
        test_cfg: How it predicts; see ``filled_test_cfg``. The threshold of a
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
        spacing: Sequence[float] | None = None,
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
        self.test_cfg = filled_test_cfg(test_cfg, spatial_dims)
        self.backbone, self.pretrained = build_backbone(
            backbone,
            in_channels=in_channels,
            spatial_dims=spatial_dims,
            spacing=spacing,
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
        order_memory(self, channels_last)
        if tuning is not None:
            self.tune(tuning)

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
        patch = getattr(self.backbone, 'input_multiple', None) or getattr(
            self.backbone, 'patch_size', None
        )
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
        logits, padded = self._low_logits(inputs)
        return self._at_size(logits, padded, inputs.shape[2:])

    def lazy_logits(self, inputs: Tensor) -> LazyLogits:
        """Keep the head's own logits, and promise those of the input's size.

        The promise is ``(N, K, *S)``, what ``encode_decode`` returns.
        """
        logits, padded = self._low_logits(inputs)
        grid = inputs.shape[2:]
        # A few channels of a map in another order are in no order at all.
        return LazyLogits.of(logits.contiguous()).each(
            lambda few: self._at_size(few, padded, grid), grid
        )

    def _low_logits(self, inputs: Tensor) -> tuple[Tensor, torch.Size]:
        """Run the network: its logits, and the size that they stand for."""
        inputs = self._whole_patches(inputs)
        padded = inputs.shape[2:]
        features = self.extract_feat(inputs)
        if isinstance(self.decode_head, DecodeHead):
            return self.decode_head(features), padded
        metas = [dict(img_shape=padded)] * len(inputs)
        return self.decode_head.predict(features, metas, None), padded

    def _at_size(
        self, logits: Tensor, padded: Sequence[int], size: Sequence[int]
    ) -> Tensor:
        logits = resize(logits, padded, self.align_corners)
        return logits[(..., *(slice(edge) for edge in size))]
