"""Labels and images in the form that heads and models take."""

from collections.abc import Mapping

from mmseg.structures import SegDataSample
from torch import Tensor

from upernet_ext.structures import GridData


def labelled(labels: Tensor) -> list[SegDataSample]:
    """Put labels ``(N, *S)`` into one sample an image."""
    samples = []
    for label in labels:
        sample = SegDataSample()
        sample.gt_sem_seg = GridData(data=label[None])
        samples.append(sample)
    return samples


def unlabelled(inputs: Tensor, ori_shape: tuple) -> list[SegDataSample]:
    """Make a sample an image that is to be predicted at ``ori_shape``."""
    size = tuple(inputs.shape[2:])
    metainfo = dict(
        img_shape=size,
        pad_shape=size,
        ori_shape=tuple(ori_shape),
        padding_size=[0] * 4,
    )
    return [SegDataSample(metainfo=metainfo) for _ in inputs]


def predicted(samples: list[SegDataSample]) -> Mapping[str, Tensor]:
    """Take the labels out of samples, by their number."""
    return {str(i): s.pred_sem_seg.data for i, s in enumerate(samples)}
