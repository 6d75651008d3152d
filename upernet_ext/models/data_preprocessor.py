"""From a list of samples to a normalised batch, of any rank."""

from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ..registry import MODELS
from ..structures import IGNORE_INDEX, GridData


def _pad_far_end(x: Tensor, size: Sequence[int], value: float) -> Tensor:
    """Pad ``(C, *S)`` behind the data, to ``size``."""
    pads = [new - old for old, new in zip(x.shape[1:], size, strict=True)]
    return F.pad(x, [n for p in reversed(pads) for n in (0, p)], value=value)


@MODELS.register_module()
class SegDataPreProcessor(BaseDataPreprocessor):
    """Move to the device, swap BGR to RGB, normalise, pad, stack.

    Images and labels travel as they were loaded (uint8 where possible) and
    become float32 and int64 on the device. What was normalised when it was
    loaded, as cases of volumes are (``normalized`` in the sample's metainfo),
    keeps its values and its channels.

    Args:
        mean: Subtracted from each channel, in RGB order and the images' range
            (0 to 255). One number, or three averaged, serve grey images.
        std: Divides each channel.
        bgr_to_rgb: Swap the channels of three-channel images.
        size: Training batches are padded to at least this.
        size_divisor: Training batches are padded to a multiple of this.
        pad_val: Value of padded pixels, after normalisation.
        seg_pad_val: Label of padded pixels.
        test_cfg: ``dict(size=..., size_divisor=...)`` for testing; by
            default images are padded only to the largest of the batch.
        non_blocking: Of the copy to the device.

    Raises:
        ValueError: ``mean`` and ``std`` differ in length, or an image has
            other channels than they have.
    """

    def __init__(
        self,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        bgr_to_rgb: bool = True,
        size: Sequence[int] | None = None,
        size_divisor: int | None = None,
        pad_val: float = 0,
        seg_pad_val: int = IGNORE_INDEX,
        test_cfg: Mapping | None = None,
        non_blocking: bool = False,
    ) -> None:
        super().__init__(non_blocking)
        if (mean is None) != (std is None) or (
            mean is not None and len(mean) != len(std)
        ):
            raise ValueError(
                f'mean and std go together, channel by channel, got '
                f'mean={mean} and std={std}'
            )
        self.bgr_to_rgb = bgr_to_rgb
        self.train_padding = dict(size=size, size_divisor=size_divisor)
        self.test_padding = dict(test_cfg or {})
        self.pad_val = pad_val
        self.seg_pad_val = seg_pad_val
        # The device is the buffers': there is always at least one.
        self.register_buffer(
            'mean', torch.tensor(mean or [0.0]), persistent=False
        )
        self.register_buffer(
            'std', torch.tensor(std or [1.0]), persistent=False
        )

    def forward(self, data: dict, training: bool = False) -> dict:
        """Make a batch.

        Args:
            data: ``inputs``: a list of ``(C, *S)`` or a stacked tensor;
                ``data_samples``: their samples, or none.
            training: Pad labels too, by the training rule.

        Returns:
            ``inputs`` ``(N, C, *S)`` float32 and ``data_samples``, which know
            their ``img_shape`` and ``pad_shape``.
        """
        data = self.cast_data(data)
        samples = data.get('data_samples')
        if samples is None:
            samples = [SegDataSample() for _ in data['inputs']]
        inputs = [
            x.float()
            if sample.metainfo.get('normalized')
            else self._normalise(x)
            for x, sample in zip(data['inputs'], samples, strict=True)
        ]
        padding = self.train_padding if training else self.test_padding
        shape = self._padded_shape([x.shape[1:] for x in inputs], **padding)
        for image, sample in zip(inputs, samples, strict=True):
            grid = tuple(image.shape[1:])
            sample.set_metainfo(dict(img_shape=grid, pad_shape=shape))
            if 'ori_shape' not in sample.metainfo:
                sample.set_metainfo(dict(ori_shape=grid))
            if training:
                sample.gt_sem_seg = self._padded_labels(sample, grid, shape)
            elif 'gt_sem_seg' in sample:
                sample.gt_sem_seg.data = sample.gt_sem_seg.data.long()
        batch = torch.stack(
            [_pad_far_end(x, shape, self.pad_val) for x in inputs]
        )
        return dict(inputs=batch, data_samples=samples)

    def _normalise(self, image: Tensor) -> Tensor:
        if self.bgr_to_rgb and len(image) == 3:
            image = image[[2, 1, 0]]
        mean, std = self.mean, self.std
        if len(image) == 1:
            mean, std = mean.mean(), std.mean()
        elif len(mean) not in (1, len(image)):
            raise ValueError(
                f'mean and std have {len(mean)} channels, but the image has '
                f'{len(image)}; set model.data_preprocessor.mean and std, one '
                'number a channel'
            )
        spatial = [1] * (image.ndim - 1)
        return (image.float() - mean.view(-1, *spatial)) / std.view(
            -1, *spatial
        )

    @staticmethod
    def _padded_shape(
        shapes: Sequence[Sequence[int]],
        size: Sequence[int] | None = None,
        size_divisor: int | None = None,
    ) -> tuple[int, ...]:
        """Take the largest of each axis, at least ``size``, a multiple."""
        shapes = [*shapes, size] if size else shapes
        divisor = size_divisor or 1
        return tuple(
            -(-max(axis) // divisor) * divisor
            for axis in zip(*shapes, strict=True)
        )

    def _padded_labels(
        self,
        sample: SegDataSample,
        grid: tuple[int, ...],
        shape: tuple[int, ...],
    ) -> GridData:
        labels = sample.gt_sem_seg
        if tuple(labels.data.shape[1:]) != grid:
            raise ValueError(
                f'{sample.metainfo.get("img_path", "a sample")}: the image is '
                f'{grid}, its labels are {tuple(labels.data.shape[1:])}; a '
                'transform changed only one of them'
            )
        # 8 bits may not hold the padding's label.
        padded = _pad_far_end(labels.data.long(), shape, self.seg_pad_val)
        return GridData(metainfo=labels.metainfo, data=padded)
