"""The end of every pipeline."""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmseg.structures import SegDataSample

from ...registry import TRANSFORMS
from ...structures import GridData
from ..layout import contiguous, is_channels_first

META_KEYS = (
    'img_path',
    'seg_map_path',
    'ori_shape',
    'img_shape',
    'pad_shape',
    'scale_factor',
    'flip',
    'flip_direction',
    'reduce_zero_label',
    'label_map',
    'spacing',
    'case',
    'img_paths',
    'ori_spacing',
    'axes',
    'crop_box',
    'normalized',
)


@TRANSFORMS.register_module()
class PackInputs(BaseTransform):
    """Pack a sample of any rank for the model.

    Images are ``(H, W, C)`` or ``(H, W)`` (OpenCV drops a single channel),
    volumes ``(C, D, H, W)`` and, of samples with ``channels_first``, slices
    ``(C, H, W)``. The mask, if there is one, has the grid ``S`` of the image,
    or of the file where a test pipeline resizes the image before it loads the
    mask. With ``label_sets`` (see ``LoadMask``) it becomes ``K`` channels.

    Args:
        meta_keys: Keys copied into the sample's metainfo where the pipeline
            has them. ``img_shape`` and ``pad_shape`` are the grid ``S`` of
            ``inputs``; ``spacing`` is the distance of neighbouring pixels or
            voxels in mm, one number an axis of ``S``.
    """

    def __init__(self, meta_keys: Sequence[str] = META_KEYS) -> None:
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack the sample.

        Returns:
            ``inputs``, ``uint8`` or ``float32`` of ``(C, *S)``, and
            ``data_samples`` with ``gt_sem_seg`` of ``(1, *S)`` or
            ``(K, *S)``. ``uint8`` labels stay so, an eighth of the bytes to
            send between processes, until ``SegDataPreProcessor`` makes them
            ``int64``; other types become ``int64``.

        Raises:
            ValueError: The rank of the image is not 2, 3 or 4, or the mask
                has another grid.
        """
        image = _channels_first(results)
        grid = image.shape[1:]
        metainfo = {k: results[k] for k in self.meta_keys if k in results}
        for key in ('img_shape', 'pad_shape'):
            if key in self.meta_keys:
                metainfo[key] = grid
        sample = SegDataSample(metainfo=metainfo)
        if 'gt_seg_map' in results:
            mask = results['gt_seg_map']
            if mask.shape not in (grid, tuple(results.get('ori_shape', ()))):
                raise ValueError(
                    f'{results.get("img_path")}: the image has the grid '
                    f'{grid}, but the mask has the shape {mask.shape}; load '
                    'masks with LoadMask, and transform both alike'
                )
            if 'label_sets' in results:
                mask = results['label_sets'].T[:, mask]
            else:
                mask = mask[None]
            geometry = {k: metainfo[k] for k in ('spacing',) if k in metainfo}
            sample.gt_sem_seg = GridData(
                metainfo=geometry, data=_to_tensor(mask, np.int64)
            )
        return dict(inputs=_to_tensor(image, np.float32), data_samples=sample)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(meta_keys={self.meta_keys})'


def _channels_first(results: dict[str, Any]) -> np.ndarray:
    image = results['img']
    if is_channels_first(results) and image.ndim in (3, 4):
        return image
    if image.ndim == 2:
        return image[None]
    if image.ndim == 3:
        return _planes(contiguous(image))
    raise ValueError(
        f'{results.get("img_path")}: PackInputs takes images (H, W), '
        '(H, W, C) and volumes (C, D, H, W), got shape '
        f'{image.shape}'
    )


def _planes(image: np.ndarray) -> np.ndarray:
    """Turn ``(H, W, C)`` into ``(C, H, W)``."""
    if image.dtype != np.uint8 or image.shape[2] != 3:
        return image.transpose(2, 0, 1)
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(image, list(planes))
    return planes


def _to_tensor(array: np.ndarray, kind: type) -> torch.Tensor:
    """Give a tensor of ``uint8`` as it is, of other types as ``kind``."""
    kind = np.uint8 if array.dtype == np.uint8 else kind
    # A copy of what cannot be written to: tensors can.
    return torch.from_numpy(np.require(array, kind, ['C', 'W']))
