"""A pipeline whose errors name the sample."""

from typing import Any

from mmcv.transforms import Compose

from .layout import refuse_2d_transform


class DataError(ValueError):
    """A sample that a pipeline cannot use; the message names the image.

    It has one string argument, so it passes unchanged from a dataloader's
    worker to the main process.
    """


def run_pipeline(pipeline: Compose, sample: dict[str, Any]) -> Any:
    """Run the transforms; an error names the image and the transform.

    Transforms of images ``(H, W, C)`` are refused once the sample is a
    volume.

    Args:
        pipeline: The transforms (mmengine's or mmcv's ``Compose``).
        sample: What the dataset knows, with ``img_path``.

    Returns:
        The last transform's result, or ``None`` as soon as one returns it.

    Raises:
        DataError: A transform failed.
    """
    path = sample['img_path']
    for transform in pipeline.transforms:
        try:
            refuse_2d_transform(transform, sample)
            sample = transform(sample)
        except Exception as error:
            raise DataError(
                f'{path}: {type(transform).__name__} failed: '
                f'{type(error).__name__}: {error}'
            ) from error
        if sample is None:
            return None
    return sample
