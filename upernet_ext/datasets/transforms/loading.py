"""Images and masks from files, checked where they are read."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from ...registry import TRANSFORMS
from ...structures import IGNORE_INDEX
from .labels import index_label_sets, to_labels
from .reading import drop_opaque_alpha, read_image, read_mask


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Load an image on the 0..255 scale.

    The array has a channel axis, ``(H, W, C)``. Three channels come in BGR
    order, which mmcv's colour transforms assume; any other number comes in
    the order of the file. ``uint8`` stays ``uint8``; 16-bit images and those
    with a ``value_range`` become ``float32`` in 0..255. Images are turned as
    their EXIF orientation says, whatever ``color`` is; masks are not.

    Sets ``img``, ``img_shape`` and ``ori_shape`` (``(H, W)``) and
    ``num_channels``. A sample that has ``img`` already (``(H, W)`` or
    ``(H, W, C)``, BGR) is not read again.

    Args:
        color: ``'color'``: three channels, grey is repeated.
            ``'grayscale'``: one channel, the luma (ITU-R BT.601) of colours.
            Both drop an alpha channel that is opaque everywhere and refuse
            any other. ``'unchanged'``: the channels of the file.
        value_range: The file values ``(low, high)`` that become 0 and 255;
            values outside are clipped. ``None`` takes ``(0, 255)`` for 8-bit
            and ``(0, 65535)`` for unsigned 16-bit images; all other types
            need it.

    Raises:
        ValueError: The file cannot be decoded, its channels do not fit
            ``color``, or its type needs a ``value_range``.
    """

    def __init__(
        self,
        color: Literal['color', 'grayscale', 'unchanged'] = 'color',
        *,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        if color not in ('color', 'grayscale', 'unchanged'):
            raise ValueError(
                "LoadImage: color must be 'color', 'grayscale' or "
                f"'unchanged', got {color!r}"
            )
        if value_range is not None and not value_range[0] < value_range[1]:
            raise ValueError(
                'LoadImage: value_range must be (low, high) with low < high, '
                f'got {value_range}'
            )
        self.color = color
        self.value_range = value_range

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load ``results['img_path']``."""
        path = results.get('img_path')
        in_memory = 'img' in results
        image = results['img'] if in_memory else read_image(path)
        image = image[..., None] if image.ndim == 2 else image
        if image.ndim != 3 or 0 in image.shape:
            raise ValueError(
                f'{path}: LoadImage needs (H, W) or (H, W, C), got an array '
                f'of shape {image.shape}'
            )
        if self.color != 'unchanged':
            image = self._drop_alpha(image, path)
        if image.shape[2] == 3 and not in_memory:
            image = image[..., ::-1]
        image = np.ascontiguousarray(self._rescale(image, path))
        if self.color == 'color' and image.shape[2] == 1:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        if self.color == 'grayscale' and image.shape[2] == 3:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
        results['img'] = image
        results['img_shape'] = image.shape[:2]
        results['ori_shape'] = image.shape[:2]
        results['num_channels'] = image.shape[2]
        return results

    def _drop_alpha(self, image: np.ndarray, path: str) -> np.ndarray:
        """Leave the one or three channels that have a colour."""
        channels = image.shape[2]
        if channels == 4:
            return drop_opaque_alpha(
                image, path, "load it with LoadImage(color='unchanged')"
            )
        if channels not in (1, 3):
            raise ValueError(
                f'{path}: an image of {channels} channels cannot become '
                f"{self.color!r}; use LoadImage(color='unchanged') and "
                f'in_channels={channels}'
            )
        return image

    def _rescale(self, image: np.ndarray, path: str) -> np.ndarray:
        """Bring the values to 0..255: ``uint8`` or ``float32``."""
        if self.value_range is not None:
            low, high = self.value_range
        elif image.dtype == np.uint8:
            return image
        elif image.dtype == np.uint16:
            low, high = 0, 65535
        elif image.dtype == bool:
            low, high = 0, 1
        else:
            raise ValueError(
                f'{path}: {image.dtype} images have no known scale (this one '
                f'spans {image.min()} to {image.max()}); give '
                'LoadImage(value_range=(low, high)), the values that become '
                '0 and 255'
            )
        image = image.astype(np.float32)
        if not np.isfinite(image).all():
            count = int((~np.isfinite(image)).sum())
            raise ValueError(
                f'{path}: {count} values are NaN or infinite; replace them'
            )
        image = (image - low) * (255 / (high - low))
        return np.clip(image, 0, 255, out=image)

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(color={self.color!r}, '
            f'value_range={self.value_range})'
        )


@TRANSFORMS.register_module()
class LoadMask(BaseTransform):
    """Load a mask as class indices ``(H, W)`` and check every value.

    Of a mask file's values, in this order: ``reduce_zero_label`` makes 0
    ignored and the rest one smaller; ``label_map`` replaces values, each of
    which, but 255, must be in it; then all must be a class or 255 (ignored).
    RGB masks are looked up in ``palette`` instead; without one, three equal
    channels are read as one. Palette images give their indices.

    Arguments left at ``None`` come from the sample, where a dataset has put
    them: ``num_classes``, ``label_map``, ``mask_palette``, ``multi_label``,
    ``reduce_zero_label`` (mmseg's datasets give ``label_map`` and
    ``reduce_zero_label``).

    With ``multi_label`` the file is ``(H, W, K)`` of 0, 1 and 255. 2D
    transforms cannot pad or rotate that, so ``gt_seg_map`` becomes the
    ``(H, W)`` index of each pixel's set of labels, 255 for padding, and
    ``label_sets`` the table ``(sets, K)``; ``PackInputs`` looks it up.

    Sets ``gt_seg_map`` and adds it to ``seg_fields``. A sample that has
    ``gt_seg_map`` already is checked, but not read again.

    Args:
        num_classes: Labels must be below it. 1 is one foreground class:
            labels 0 and 1. ``None`` and no such key in the sample: any label
            below 255.
        label_map: File value to class index or 255.
        palette: RGB colours of labels 0, 1, ...; further colours are ignored
            pixels.
        multi_label: Whether the file has one channel a class.
        reduce_zero_label: Whether 0 is ignored and 1 the first class.

    Raises:
        ValueError: There is no mask, it cannot be decoded, its size is not
            the image's, or a value or colour is no class; the message names
            file, value and number of pixels.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        label_map: Mapping[int, int] | None = None,
        *,
        palette: Sequence[Sequence[int]] | None = None,
        multi_label: bool | None = None,
        reduce_zero_label: bool | None = None,
    ) -> None:
        if num_classes is not None and not 0 < num_classes <= IGNORE_INDEX:
            raise ValueError(
                f'LoadMask: num_classes must be 1 to {IGNORE_INDEX}, got '
                f'{num_classes}'
            )
        self.options = dict(
            num_classes=num_classes,
            label_map=label_map,
            mask_palette=palette,
            multi_label=multi_label,
            reduce_zero_label=reduce_zero_label,
        )

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load ``results['seg_map_path']``."""
        path = results.get('seg_map_path')
        if 'gt_seg_map' in results:
            path = path or results.get('img_path')
            mask = results['gt_seg_map']
        elif path is None:
            raise ValueError(
                f'{results.get("img_path")}: the dataset has no mask for it; '
                'give ann_dir, or take LoadMask out of the pipeline'
            )
        else:
            mask = read_mask(path)
        options = {
            key: results.get(key) if value is None else value
            for key, value in self.options.items()
        }
        multi_label = bool(options['multi_label'])
        labels = to_labels(
            mask,
            path,
            num_classes=options['num_classes'],
            label_map=options['label_map'],
            palette=options['mask_palette'],
            multi_label=multi_label,
            reduce_zero_label=bool(options['reduce_zero_label']),
        )
        _check_size(labels.shape[:2], path, results)
        if multi_label:
            labels, results['label_sets'] = index_label_sets(labels)
        results['gt_seg_map'] = labels
        fields = results.setdefault('seg_fields', [])
        if 'gt_seg_map' not in fields:
            fields.append('gt_seg_map')
        return results

    def __repr__(self) -> str:
        options = ', '.join(f'{k}={v}' for k, v in self.options.items())
        return f'{type(self).__name__}({options})'


def _check_size(
    found: tuple[int, int], path: str, results: dict[str, Any]
) -> None:
    """Raise if a mask is not of its image's size, where that is known."""
    size = results.get('ori_shape')
    if size is None or found == tuple(size):
        return
    hint = ''
    if found[::-1] == tuple(size):
        hint = (
            '; height and width are swapped: the image may have an '
            'EXIF orientation, which is applied to images only'
        )
    raise ValueError(
        f'{path}: the mask is {found[0]} x {found[1]} pixels, its image '
        f'{results.get("img_path")} is {size[0]} x {size[1]}{hint}'
    )
