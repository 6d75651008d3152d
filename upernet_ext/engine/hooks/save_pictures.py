"""Write what a model predicts, while it is validated or tested."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.utils.data import Dataset

from ...registry import HOOKS
from ...visualization import (
    draw_comparison,
    draw_volume,
    save_label_maps,
    save_picture,
    source_image,
    to_label_picture,
    to_picture,
)


class _SaveSamples(Hook):
    """Number the samples of a dataset, over all processes."""

    priority = 'LOW'

    def before_val_epoch(self, runner: Runner) -> None:
        """Start with the first sample again."""
        self._seen = 0

    def before_test_epoch(self, runner: Runner) -> None:
        """Start with the first sample again."""
        self._seen = 0

    def _samples(
        self, dataset: Dataset, data_batch: Mapping, outputs: Sequence
    ) -> Iterator[tuple[int, str, Tensor, SegDataSample]]:
        """Yield number, file name without suffix, input and prediction."""
        rank, world_size = get_dist_info()
        for inputs, sample in zip(data_batch['inputs'], outputs, strict=True):
            # mmengine's sampler deals the dataset out to the ranks in turn,
            # and starts again to give each as many.
            number = self._seen * world_size + rank
            self._seen += 1
            if number < len(dataset):
                path = Path(sample.get('img_path') or 'sample')
                name = sample.get('case') or path.stem
                yield number, f'{number:05d}_{name}', inputs, sample


@HOOKS.register_module()
class SavePictures(_SaveSamples):
    """Save image | truth | prediction of the first samples as PNG.

    They go to ``pictures/iter_{n}`` and ``pictures/test`` in the ``work_dir``
    of the run, or to ``out_dir/iter_{n}`` and ``out_dir``. The files are
    numbered, so equal names in several folders do not meet. The image is the
    model's input, so 16-bit and N-channel data are drawn too. Of volumes
    three planes through the labels are drawn; see ``draw_volume``.

    Args:
        num_samples: How many samples of the dataset, the first ones.
            ``None``: all.
        out_dir: Where to.
        opacity: Of the colours over the image, 0..1.
    """

    def __init__(
        self,
        num_samples: int | None = 8,
        *,
        out_dir: str | Path | None = None,
        opacity: float = 0.5,
    ) -> None:
        self.num_samples = num_samples
        self.out_dir = out_dir
        self.opacity = opacity

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping | None = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        """Draw a batch of validation."""
        root = Path(self.out_dir or Path(runner.work_dir, 'pictures'))
        folder = root / f'iter_{runner.iter}'
        dataset = runner.val_dataloader.dataset
        self._draw(folder, dataset, data_batch, outputs)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping | None = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        """Draw a batch of the test."""
        folder = Path(self.out_dir or Path(runner.work_dir, 'pictures/test'))
        dataset = runner.test_dataloader.dataset
        self._draw(folder, dataset, data_batch, outputs)

    def _draw(
        self,
        folder: Path,
        dataset: Dataset,
        data_batch: Mapping,
        outputs: Sequence[SegDataSample],
    ) -> None:
        for number, name, inputs, sample in self._samples(
            dataset, data_batch, outputs
        ):
            if self.num_samples is not None and number >= self.num_samples:
                continue
            draw = _draw_volume if inputs.ndim == 4 else _draw_image
            picture = draw(
                inputs,
                sample,
                classes=dataset.metainfo['classes'],
                palette=dataset.metainfo.get('palette'),
                opacity=self.opacity,
            )
            save_picture(folder / f'{name}.png', picture)


@HOOKS.register_module()
class SaveLabelMaps(_SaveSamples):
    """Save the predictions of a test as label maps, numbered as pictures.

    See ``visualization.save_label_maps``; of a volume the middle slice.

    Args:
        out_dir: Where to.
    """

    def __init__(self, out_dir: str | Path) -> None:
        self.out_dir = Path(out_dir)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Mapping | None = None,
        outputs: Sequence[SegDataSample] | None = None,
    ) -> None:
        """Write the labels of a batch."""
        dataset = runner.test_dataloader.dataset
        for _, name, _, sample in self._samples(dataset, data_batch, outputs):
            save_label_maps(
                self.out_dir / f'{name}.png',
                to_label_picture(sample.pred_sem_seg.data),
                classes=dataset.metainfo['classes'],
                palette=dataset.metainfo.get('palette'),
            )


def _draw_image(
    inputs: Tensor, sample: SegDataSample, **style: Any
) -> np.ndarray:
    prediction = to_label_picture(sample.pred_sem_seg.data)
    truth = sample.get('gt_sem_seg')
    image = cv2.resize(
        to_picture(inputs),
        prediction.shape[:-3:-1],
        interpolation=cv2.INTER_AREA,
    )
    truth = None if truth is None else to_label_picture(truth.data)
    return draw_comparison(image, truth, prediction, **style)


def _draw_volume(
    inputs: Tensor, sample: SegDataSample, **style: Any
) -> np.ndarray:
    prediction, truth = sample.pred_sem_seg, sample.get('gt_sem_seg')
    metainfo = sample.metainfo
    return draw_volume(
        source_image(inputs, metainfo, prediction.shape),
        None if truth is None else truth.data,
        prediction.data,
        spacing=metainfo.get('ori_spacing') or metainfo.get('spacing'),
        **style,
    )
