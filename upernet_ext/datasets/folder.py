"""A folder of images and masks, without code."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmseg.datasets import BaseSegDataset

from ..registry import DATASETS
from ..structures import IGNORE_INDEX
from .pairing import find_folders, pair_files
from .palette import generate_palette
from .pipeline import run_pipeline
from .transforms.labels import to_labels
from .transforms.reading import read_mask


@DATASETS.register_module()
class FolderDataset(BaseSegDataset):
    """Images and masks paired by name.

    ``dict(type='upernet_ext.FolderDataset', data_root='data/x',
    classes=['road', 'tree'], split='train')`` finds, under ``data_root``,
    ``img_dir/train`` with ``ann_dir/train``, or ``train/img_dir`` with
    ``train/ann_dir``; the folder of images may also be called ``images`` or
    ``imgs``, that of masks ``labels``, ``masks`` or ``annotations``.

    An image and its mask have the same path below their folders, suffix
    aside. Without suffixes given, images are PNG, JPEG, TIFF, BMP, WebP or
    ``.npy``, masks the same but JPEG.

    Pipelines start with ``upernet_ext.LoadImage`` and
    ``upernet_ext.LoadMask``, which gets the classes, ``label_map``,
    ``palette`` and so on from here. A transform that fails names the image.

    Args:
        data_root: The folder to look in; ``img_dir`` and ``ann_dir`` are
            relative to it.
        classes: Names, in the order of the class indices. One name is one
            foreground class: labels 0 (background) and 1.
        split: ``'train'``, ``'val'``, ``'test'``, or any folder's name;
            ``None`` for folders that are not split.
        img_dir: The folder of images, instead of looking for it.
        ann_dir: The folder of masks, instead of looking for it.
        img_suffix: End of the images' names, such as ``'_leftImg8bit.png'``.
        seg_map_suffix: End of the masks' names, such as
            ``'_gtFine_labelTrainIds.png'``.
        label_map: Value in the mask files to class index or 255 (ignored),
            such as ``{0: 0, 255: 1}``; every value but 255 must be in it.
        palette: RGB colours of the classes, to read RGB masks and to draw.
            One foreground class has two, background first. Colours after the
            classes' mean ignored pixels. ``None``: colours are made up.
        multi_label: Whether masks have one 0/1 channel a class.
        reduce_zero_label: Whether 0 in the masks means "ignored" and the
            classes start at 1.
        check_classes: Whether to read masks at the start, until every class
            was seen. ``None``: unless ``test_mode``.
        metainfo: More metainfo; may hold ``classes`` and ``palette``.
        pipeline: The transforms.
        test_mode: Whether samples are only predicted or measured. The masks
            may then be missing altogether.
        indices: Use the first ``indices`` samples, or these ones.
        serialize_data: Whether workers share the list of files.
        lazy_init: Whether to wait with looking for files until ``full_init``.

    Raises:
        ValueError: No folder fits, the split is empty, an image or mask has
            no partner or two, a mask has a value that is no class, or a class
            occurs in no mask. The message names files and values.
    """

    def __init__(
        self,
        data_root: str | Path = '',
        classes: Sequence[str] | None = None,
        *,
        split: str | None = 'train',
        img_dir: str | Path | None = None,
        ann_dir: str | Path | None = None,
        img_suffix: str | None = None,
        seg_map_suffix: str | None = None,
        label_map: Mapping[int, int] | None = None,
        palette: Sequence[Sequence[int]] | None = None,
        multi_label: bool = False,
        reduce_zero_label: bool = False,
        check_classes: bool | None = None,
        metainfo: Mapping[str, Any] | None = None,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        lazy_init: bool = False,
    ) -> None:
        metainfo = dict(metainfo or {})
        classes = metainfo.get('classes') if classes is None else classes
        palette = metainfo.get('palette') if palette is None else palette
        self.classes = _check_names(classes)
        if multi_label and reduce_zero_label:
            raise ValueError(
                'FolderDataset: multi_label masks hold 0 and 1 only; leave '
                'reduce_zero_label out'
            )
        self.split = split
        self.root = Path(data_root)
        self.img_dir, self.ann_dir = img_dir, ann_dir
        self.multi_label = multi_label
        self.check_classes = (
            not test_mode if check_classes is None else check_classes
        )
        self.mask_palette = _check_palette(palette, len(self.classes))
        metainfo.update(
            classes=self.classes,
            palette=_drawing_palette(self.mask_palette, self.classes),
            multi_label=multi_label,
        )
        super().__init__(
            img_suffix=img_suffix,
            seg_map_suffix=seg_map_suffix,
            metainfo=metainfo,
            pipeline=list(pipeline),
            test_mode=test_mode,
            reduce_zero_label=reduce_zero_label,
            indices=indices,
            serialize_data=serialize_data,
            lazy_init=True,
        )
        self.data_root = str(data_root)
        # The parent's is of class lists, for subsets of METAINFO's.
        self.label_map = _check_label_map(label_map)
        self._metainfo['label_map'] = self.label_map
        if not lazy_init:
            self.full_init()

    def load_data_list(self) -> list[dict[str, Any]]:
        """Find and pair the files; see the class for what is refused."""
        img_dir, ann_dir = find_folders(
            self.root,
            self.split,
            self.img_dir,
            self.ann_dir,
            needs_masks=not self.test_mode,
        )
        images, masks = pair_files(
            img_dir, ann_dir, self.img_suffix, self.seg_map_suffix
        )
        data_list = [self._describe(images[k], masks.get(k)) for k in images]
        if self.check_classes and ann_dir is not None:
            self._check_every_class_occurs(data_list, ann_dir)
        return data_list

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on sample ``idx``; errors name the image."""
        return run_pipeline(self.pipeline, self.get_data_info(idx))

    def _describe(self, image: str, mask: str | None) -> dict[str, Any]:
        sample = dict(
            img_path=image,
            label_map=self.label_map,
            reduce_zero_label=self.reduce_zero_label,
            seg_fields=[],
            num_classes=len(self.classes),
            multi_label=self.multi_label,
            mask_palette=self.mask_palette,
        )
        if mask is not None:
            sample['seg_map_path'] = mask
        return sample

    def _check_every_class_occurs(
        self, data_list: list[dict[str, Any]], ann_dir: Path
    ) -> None:
        """Read masks until each class was seen.

        In silence, a class that never occurs is never learnt: 0/255 masks
        read as one class and ignored pixels train nothing.
        """
        missing = set(range(len(self.classes)))
        values: set[int] = set()
        for sample in data_list:
            mask = read_mask(sample['seg_map_path'])
            labels = to_labels(
                mask,
                sample['seg_map_path'],
                num_classes=len(self.classes),
                label_map=self.label_map,
                palette=self.mask_palette,
                multi_label=self.multi_label,
                reduce_zero_label=self.reduce_zero_label,
            )
            if self.multi_label:
                missing -= set(np.flatnonzero((labels == 1).any((0, 1))))
            else:
                seen = _unique(labels)
                # One foreground class is label 1; the name's index is 0.
                first = 1 if len(self.classes) == 1 else 0
                missing -= {label - first for label in seen}
            if not missing:
                return
            values |= _unique(mask)
        names = ', '.join(f'{i} ({self.classes[i]})' for i in sorted(missing))
        found = ', '.join(map(str, sorted(values)[:20]))
        hint = 'remove the class, or map a value to it with label_map'
        if values == {0, 255} and self.label_map is None:
            hint = (
                '255 means ignored; if it is the foreground here, set '
                'label_map={0: 0, 255: 1}'
            )
        raise ValueError(
            f'FolderDataset: class {names} never occurs in the '
            f'{len(data_list)} masks of {ann_dir}, which hold the values '
            f'{found}; {hint} (check_classes=False skips this check)'
        )


def _check_names(classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is None or isinstance(classes, str) or not len(classes):
        raise ValueError(
            'FolderDataset needs classes=[name, ...], in the order of the '
            f'class indices, got {classes!r}'
        )
    repeated = [name for name, n in Counter(classes).items() if n > 1]
    if repeated:
        raise ValueError(
            f'FolderDataset: the class names {repeated} occur more than once'
        )
    if len(classes) > IGNORE_INDEX:
        raise ValueError(
            f'FolderDataset: {len(classes)} classes, but labels have 8 bits '
            f'and {IGNORE_INDEX} means ignored'
        )
    return tuple(classes)


def _check_label_map(
    label_map: Mapping[int, int] | None,
) -> dict[int, int] | None:
    if label_map is None:
        return None
    # Keys that went through a command line are strings.
    return {int(value): int(label) for value, label in label_map.items()}


def _check_palette(
    palette: Sequence[Sequence[int]] | None, num_classes: int
) -> list[list[int]] | None:
    if palette is None:
        return None
    array = np.asarray(palette)
    if array.ndim != 2 or array.shape[1] != 3 or len(array) < num_classes:
        raise ValueError(
            f'FolderDataset: palette must hold an (r, g, b) for each of the '
            f'{num_classes} classes, got {palette}'
        )
    return array.tolist()


def _drawing_palette(
    palette: list[list[int]] | None, classes: Sequence[str]
) -> list[list[int]]:
    """One colour a class; the background colour of one class is left out."""
    if palette is None:
        return generate_palette(classes)
    first = 1 if len(classes) == 1 and len(palette) > 1 else 0
    return palette[first : first + len(classes)]


def _unique(array: np.ndarray) -> set[int]:
    if array.dtype == np.uint8:
        return set(np.flatnonzero(np.bincount(array.ravel())).tolist())
    return set(np.unique(array).tolist())
