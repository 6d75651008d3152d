"""What the heads share: one rank, one activation, losses, accuracy."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from mmcv.cnn import build_conv_layer
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.structures import OHEMPixelSampler, SegDataSample
from torch import Tensor, nn

from ...layers.rank import (
    channel_dropout,
    check_spatial_dims,
    conv_cfg,
    conv_module,
    resize,
)
from ...structures import IGNORE_INDEX
from ..backbones import accepts, type_of
from ..losses import SegmentationLoss, hard_pixels, targets_and_mask
from .progressive_upsampler import ProgressiveUpsampler


def scores_to_labels(
    logits: Tensor, *, use_sigmoid: bool, threshold: float
) -> Tensor:
    """Decide: the largest logit, or each probability against a threshold.

    Args:
        logits: ``(N, K, *S)``; probabilities too where ``use_sigmoid`` is
            false.
        use_sigmoid: Each class by itself.
        threshold: Probability above which a class is there.

    Returns:
        ``(N, 1, *S)`` class indices, or ``(N, K, *S)`` of 0 and 1; int64.
    """
    if use_sigmoid:
        return (logits.sigmoid() > threshold).long()
    return logits.argmax(1, keepdim=True)


def checked_depth(encoder_depth: int | None, num_levels: int) -> int:
    """Return how many levels a decoder uses, counted from the finest.

    Raises:
        ValueError: Fewer than 3 are asked for, or more than there are.
    """
    if encoder_depth is None:
        return num_levels
    if not 3 <= encoder_depth <= num_levels:
        raise ValueError(
            f'encoder_depth={encoder_depth} must lie between 3 and the '
            f'{num_levels} levels of the encoder'
        )
    return encoder_depth


class DecodeHead(BaseDecodeHead):
    """mmsegmentation's ``BaseDecodeHead`` for images and volumes.

    Args:
        in_channels: Channels of the selected levels.
        channels: Channels before the classifier ``conv_seg``.
        num_classes: Classes; 1 for one foreground class by sigmoid.
        spatial_dims: 2 or 3.
        multi_label: Independent classes by sigmoid: a pixel may have several.
        threshold: Probability above which a sigmoid class is there.
        dropout_ratio: Of whole channels, before the classifier.
        upsampler: Arguments of a ``ProgressiveUpsampler`` between the fused
            features and the classifier; ``None`` for none.
        norm_cfg: mmcv's norm config; fits any rank.
        act_cfg: mmcv's activation config.
        in_index: The level or levels to take.
        input_transform: ``None`` for one level, ``'multiple_select'``,
            ``'resize_concat'``: see ``BaseDecodeHead``.
        loss_decode: A loss config or several.
        ignore_index: Label of pixels that do not count.
        sampler: mmseg's pixel sampler config; its ``OHEMPixelSampler`` is
            done in slabs.
        align_corners: Of every resize.
        init_cfg: mmengine's initialisation config; ``conv_seg`` is Normal
            with std 0.01 as in mmseg.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        channels: int,
        *,
        num_classes: int,
        spatial_dims: int = 2,
        multi_label: bool = False,
        threshold: float = 0.5,
        dropout_ratio: float = 0.1,
        upsampler: Mapping | None = None,
        norm_cfg: Mapping | None = None,
        act_cfg: Mapping | None = None,
        in_index: int | Sequence[int] = -1,
        input_transform: str | None = None,
        loss_decode: Mapping | Sequence[Mapping] | None = None,
        ignore_index: int = IGNORE_INDEX,
        sampler: Mapping | None = None,
        align_corners: bool = False,
        init_cfg: Mapping | None = None,
    ) -> None:
        self.use_sigmoid = multi_label or num_classes == 1
        super().__init__(
            in_channels,
            channels,
            num_classes=num_classes,
            out_channels=num_classes,
            threshold=threshold,
            dropout_ratio=dropout_ratio,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg or dict(type='ReLU'),
            in_index=in_index,
            input_transform=input_transform,
            loss_decode=self._loss_cfg(loss_decode),
            ignore_index=ignore_index,
            sampler=sampler,
            align_corners=align_corners,
            init_cfg=init_cfg
            or dict(type='Normal', std=0.01, override=dict(name='conv_seg')),
        )
        self.spatial_dims = check_spatial_dims(spatial_dims)
        # The parent made both for images.
        self.conv_seg = build_conv_layer(
            conv_cfg(spatial_dims), channels, num_classes, 1
        )
        if dropout_ratio > 0:
            self.dropout = channel_dropout(spatial_dims, dropout_ratio)
        self.upsampler = (
            None
            if upsampler is None
            else ProgressiveUpsampler(
                channels,
                spatial_dims=spatial_dims,
                align_corners=align_corners,
                **upsampler,
            )
        )

    def _loss_cfg(
        self, loss_decode: Mapping | Sequence[Mapping] | None
    ) -> dict | list[dict]:
        """Fill ``use_sigmoid`` into a loss; refuse a contradiction.

        A foreign loss on a softmax head is left as it is: mmseg's sigmoid
        losses of exclusive classes are its own affair.
        """
        if loss_decode is None:
            loss_decode = dict(type='upernet_ext.CrossEntropyLoss')
        if not isinstance(loss_decode, Mapping):
            return [self._loss_cfg(cfg) for cfg in loss_decode]
        cfg = copy.deepcopy(dict(loss_decode))
        cls = type_of(cfg)
        if not (issubclass(cls, SegmentationLoss) or self.use_sigmoid):
            return cfg
        if cfg.get('use_sigmoid', self.use_sigmoid) != self.use_sigmoid:
            raise ValueError(
                f'{cfg["type"]}: use_sigmoid={cfg["use_sigmoid"]}, but the '
                f'head has use_sigmoid={self.use_sigmoid} (num_classes=1 or '
                'multi_label=True); remove it, the head fills it in'
            )
        if accepts(cls, 'use_sigmoid'):
            cfg['use_sigmoid'] = self.use_sigmoid
        return cfg

    def _conv(self, in_channels: int, kernel_size: int, **kwargs) -> nn.Module:
        """Build a ConvModule to ``channels`` with this head's norm."""
        return conv_module(
            in_channels,
            self.channels,
            kernel_size,
            spatial_dims=self.spatial_dims,
            norm=self.norm_cfg,
            act=self.act_cfg,
            **kwargs,
        )

    def cls_seg(self, feat: Tensor) -> Tensor:
        """Classify fused features ``(N, channels, *S)``."""
        if self.upsampler is not None:
            feat = self.upsampler(feat)
        return super().cls_seg(feat)

    def _transform_inputs(
        self, inputs: Sequence[Tensor]
    ) -> Tensor | list[Tensor]:
        """Take this head's levels out of ``inputs``."""
        if self.input_transform is None:
            return inputs[self.in_index]
        selected = [inputs[i] for i in self.in_index]
        if self.input_transform == 'multiple_select':
            return selected
        size = selected[0].shape[2:]
        return torch.cat(
            [resize(x, size, self.align_corners) for x in selected], dim=1
        )

    def _stack_batch_gt(self, samples: Sequence[SegDataSample]) -> Tensor:
        labels = torch.stack([s.gt_sem_seg.data for s in samples])
        return labels if labels.shape[1] > 1 else labels[:, 0]

    def loss_by_feat(
        self, seg_logits: Tensor, batch_data_samples: Sequence[SegDataSample]
    ) -> dict[str, Tensor]:
        """Compute the losses and the pixel accuracy.

        Our losses get the low-resolution logits, and upsample them slab by
        slab; foreign ones, and foreign pixel samplers, get them at the
        labels' size.

        Args:
            seg_logits: ``(N, K, *s)``.
            batch_data_samples: With ``gt_sem_seg`` ``(1, *S)`` class indices
                or ``(K, *S)`` of 0 and 1.

        Returns:
            One entry a loss, and ``acc_seg`` in percent.
        """
        labels = self._stack_batch_gt(batch_data_samples)
        found = []
        losses = self._compare(
            seg_logits,
            labels,
            on_slab=lambda *slab: found.append(self._right_and_all(*slab)),
        )
        right, total = torch.stack(found).sum(0)
        losses['acc_seg'] = 100 * right / total.clamp(min=1)
        return losses

    def _compare(
        self,
        seg_logits: Tensor,
        labels: Tensor,
        on_slab: Callable[[Tensor, Tensor], None] | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses by name.

        ``on_slab`` is shown all logits and labels once, as in ``slab_loss``.
        """
        full = self._full_size(seg_logits, labels)
        weight = self._pixel_weight(seg_logits, labels, full)
        if full is not None and on_slab is not None:
            on_slab(full.detach(), labels)
            on_slab = None
        losses = {}
        for loss in self._losses():
            if isinstance(loss, SegmentationLoss):
                value = loss(
                    seg_logits,
                    labels,
                    ignore_index=self.ignore_index,
                    align_corners=self.align_corners,
                    weight=weight,
                    on_slab=on_slab,
                )
                on_slab = None
            else:
                value = loss(
                    full,
                    labels,
                    weight=weight,
                    ignore_index=self.ignore_index,
                )
            losses[loss.loss_name] = losses.get(loss.loss_name, 0) + value
        return losses

    def _full_size(self, logits: Tensor, labels: Tensor) -> Tensor | None:
        """Upsample the logits where a foreign loss or sampler needs them."""
        foreign = self._has_foreign_loss()
        ours = self.sampler is None or type(self.sampler) is OHEMPixelSampler
        if ours and not foreign:
            return None
        size = labels.shape[2 - logits.ndim :]
        with torch.set_grad_enabled(torch.is_grad_enabled() and foreign):
            return resize(logits, size, self.align_corners)

    def _pixel_weight(
        self, logits: Tensor, labels: Tensor, full: Tensor | None
    ) -> Tensor | None:
        """Ask the pixel sampler for a factor a pixel, ``(N, *S)``."""
        if self.sampler is None:
            return None
        if full is not None:
            return self.sampler.sample(full, labels[:, None])
        return hard_pixels(
            self._losses(),
            logits,
            labels,
            threshold=self.sampler.thresh,
            min_kept=self.sampler.min_kept,
            ignore_index=self.ignore_index,
            align_corners=self.align_corners,
        )

    def _losses(self) -> Sequence[nn.Module]:
        if isinstance(self.loss_decode, nn.ModuleList):
            return self.loss_decode
        return [self.loss_decode]

    def _has_foreign_loss(self) -> bool:
        return any(
            not isinstance(loss, SegmentationLoss) for loss in self._losses()
        )

    def _right_and_all(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Count the values that are right, and those that count."""
        if not self.use_sigmoid:
            mask = labels != self.ignore_index
            right = _is_largest(logits, labels.where(mask, 0)) & mask
        else:
            targets, mask = targets_and_mask(logits, labels, self.ignore_index)
            found = scores_to_labels(
                logits, use_sigmoid=True, threshold=self.threshold
            )
            mask = mask.expand_as(targets).bool()
            right = (found == targets) & mask
        return torch.stack([right.sum(), mask.sum()])


def _is_largest(logits: Tensor, labels: Tensor) -> Tensor:
    """Tell where ``logits.argmax(1) == labels``."""
    if logits.device.type == 'cpu':
        # argmax over a strided axis takes ten times as long as amax.
        largest = logits.amax(1, keepdim=True)
        if (logits == largest).count_nonzero() == largest.numel():
            return (logits.gather(1, labels[:, None]) == largest)[:, 0]
    return logits.argmax(1) == labels
