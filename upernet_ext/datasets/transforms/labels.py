"""From the values of a mask file to labels, each of them checked."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import cv2
import numpy as np

from ...structures import IGNORE_INDEX
from .reading import drop_opaque_alpha

# OpenCV's counts are float32, which is exact to here.
_EXACT_COUNTS = 2**24


def to_labels(
    mask: np.ndarray,
    path: str,
    *,
    num_classes: int | None = None,
    label_map: Mapping[int, int] | None = None,
    palette: Sequence[Sequence[int]] | None = None,
    multi_label: bool = False,
    reduce_zero_label: bool = False,
) -> np.ndarray:
    """Turn a mask file's array into labels; see ``LoadMask``.

    Args:
        mask: ``(H, W)`` or ``(H, W, C)``, RGB.
        path: The file, for messages.
        num_classes: See ``LoadMask``.
        label_map: See ``LoadMask``.
        palette: See ``LoadMask``.
        multi_label: See ``LoadMask``.
        reduce_zero_label: See ``LoadMask``.

    Returns:
        ``uint8``: class indices ``(H, W)``, or 0/1 ``(H, W, K)`` with
        ``multi_label``; 255 is ignored.

    Raises:
        ValueError: The array has another form, or a value is no class.
    """
    if mask.ndim not in (2, 3) or 0 in mask.shape:
        raise ValueError(
            f'{path}: a mask must be (H, W) or (H, W, C), got {mask.shape}'
        )
    if multi_label:
        mask = mask[..., None] if mask.ndim == 2 else mask
        if num_classes is not None and mask.shape[2] != num_classes:
            raise ValueError(
                f'{path}: multi_label needs one channel a class, (H, W, '
                f'{num_classes}), got {mask.shape}'
            )
    elif mask.ndim == 3:
        if mask.shape[2] in (2, 4):
            mask = drop_opaque_alpha(
                mask, path, 'write the mask without alpha'
            )
        if mask.shape[2] == 3 and palette is not None:
            return _colors_to_labels(mask, path, palette, num_classes)
        mask = _only_channel(mask, path)
    return _relabel(
        _as_integers(mask, path),
        path,
        num_labels=2 if multi_label else _num_labels(num_classes),
        label_map=label_map,
        reduce_zero_label=reduce_zero_label,
    )


def _only_channel(mask: np.ndarray, path: str) -> np.ndarray:
    """Return one of the channels, which must be equal."""
    if (mask != mask[..., :1]).any():
        change = 'give multi_label=True for one channel a class'
        if mask.shape[2] == 3:
            change = (
                'give palette=[(r, g, b), ...], one colour a class, or '
                'multi_label=True for one channel a class'
            )
        raise ValueError(
            f'{path}: the mask has {mask.shape[2]} channels; {change}'
        )
    return mask[..., 0]


def _num_labels(num_classes: int | None) -> int:
    """Number of labels; one foreground class has two, 0 and 1."""
    return IGNORE_INDEX if num_classes is None else max(num_classes, 2)


def _as_integers(mask: np.ndarray, path: str) -> np.ndarray:
    if mask.dtype == bool:
        return mask.astype(np.uint8)
    if mask.dtype.kind in 'iu':
        return mask
    if mask.dtype.kind != 'f':
        raise ValueError(f'{path}: a mask cannot be {mask.dtype}')
    fractions = mask[~(np.isfinite(mask) & (mask == np.round(mask)))]
    if fractions.size:
        raise ValueError(
            f'{path}: {fractions.size} pixels are no whole number, for '
            f'example {fractions[0]}; a mask holds class indices'
        )
    return mask.astype(np.int64)


def _relabel(
    mask: np.ndarray,
    path: str,
    *,
    num_labels: int,
    label_map: Mapping[int, int] | None,
    reduce_zero_label: bool,
) -> np.ndarray:
    """Map file values to labels through a table, and check the result."""
    rule = (num_labels, label_map, reduce_zero_label)
    if mask.dtype == np.uint8:
        # One row of pixels a row, whatever the number of channels.
        index = np.ascontiguousarray(mask).reshape(len(mask), -1)
        values, largest = np.arange(256), int(index.max())
        known = None if label_map is None else tuple(label_map.items())
        labels = _labels_of_bytes(num_labels, known, reduce_zero_label)
        counts = np.zeros_like(values)
        if (labels[: largest + 1] < 0).any():
            counts = count_values(index)
    else:
        values, index, counts = np.unique(
            mask, return_inverse=True, return_counts=True
        )
        labels = _labels_of(values, *rule)
    wrong = (labels < 0) & (counts > 0)
    if wrong.any():
        found = (values[wrong].tolist(), counts[wrong].tolist())
        raise ValueError(
            _describe_wrong(list(zip(*found, strict=True)), path, *rule)
        )
    table = labels.astype(np.uint8)
    if mask.dtype != np.uint8:
        return table[index].reshape(mask.shape)
    return _look_up(index, table[: largest + 1]).reshape(mask.shape)


def _labels_of(
    values: np.ndarray,
    num_labels: int,
    label_map: Mapping[int, int] | None,
    reduce_zero_label: bool,
) -> np.ndarray:
    """Give each value its label, or -1 if it has none."""
    labels = values.astype(np.int64)
    if reduce_zero_label:
        labels = np.where(labels == IGNORE_INDEX, labels, labels - 1)
        labels[values == 0] = IGNORE_INDEX
    if label_map is not None:
        known = {IGNORE_INDEX: IGNORE_INDEX, **label_map}
        labels = np.array([known.get(label, -1) for label in labels.tolist()])
    is_class = (labels >= 0) & (labels < num_labels)
    return np.where(is_class | (labels == IGNORE_INDEX), labels, -1)


@lru_cache
def _labels_of_bytes(
    num_labels: int,
    label_map: tuple[tuple[int, int], ...] | None,
    reduce_zero_label: bool,
) -> np.ndarray:
    """Give the labels of 0 to 255; every mask of a dataset has the same."""
    known = None if label_map is None else dict(label_map)
    return _labels_of(np.arange(256), num_labels, known, reduce_zero_label)


def _look_up(index: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Replace ``uint8`` values, all of which the table has."""
    # So it is with and without reduce_zero_label: in 8 bits, 0 - 1 is 255.
    shift = table[0]
    if np.array_equal(table, np.arange(len(table), dtype=np.uint8) + shift):
        return index + shift
    return cv2.LUT(index, np.resize(table, 256))


def count_values(labels: np.ndarray) -> np.ndarray:
    """Count how often each value occurs in a ``uint8`` array of two axes.

    Returns:
        ``(256,)``, ``int64``.
    """
    if labels.size > _EXACT_COUNTS:
        return np.bincount(labels.ravel(), minlength=256)
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256])
    return counts.ravel().astype(np.int64)


def _describe_wrong(
    wrong: list[tuple[int, int]],
    path: str,
    num_labels: int,
    label_map: Mapping[int, int] | None,
    reduce_zero_label: bool,
) -> str:
    found = ', '.join(f'{v} ({n} pixels)' for v, n in wrong[:5])
    more = f' and {len(wrong) - 5} more values' if len(wrong) > 5 else ''
    if label_map is not None:
        allowed = (
            f'label_map={dict(label_map)} has no label in 0..'
            f'{num_labels - 1} or {IGNORE_INDEX} (ignored) for it; add it'
        )
    else:
        allowed = (
            f'labels are 0..{num_labels - 1} and {IGNORE_INDEX} (ignored); '
            'give label_map={file value: class index or 255}'
        )
        if not reduce_zero_label and wrong[0][0] == num_labels:
            allowed += (
                ', or reduce_zero_label=True if 0 means "no class" and the '
                'classes start at 1'
            )
    return f'{path}: the mask has the value {found}{more}, but {allowed}'


def _colors_to_labels(
    mask: np.ndarray,
    path: str,
    palette: Sequence[Sequence[int]],
    num_classes: int | None,
) -> np.ndarray:
    if num_classes is not None and len(palette) < _num_labels(num_classes):
        raise ValueError(
            f'{path}: an RGB mask of {_num_labels(num_classes)} labels needs '
            f'as many colours, palette has {len(palette)}'
        )
    num_labels = len(palette) if num_classes is None else num_classes
    shifts = np.array([65536, 256, 1])
    keys = np.asarray(palette, np.int64) @ shifts
    if len(set(keys.tolist())) < len(keys):
        raise ValueError(f'two colours of the palette are equal: {palette}')
    order = np.argsort(keys)
    labels = np.arange(len(keys))
    labels[max(num_labels, 2) :] = IGNORE_INDEX
    codes = mask.astype(np.int64) @ shifts
    slots = np.searchsorted(keys[order], codes).clip(max=len(keys) - 1)
    unknown = keys[order][slots] != codes
    if unknown.any():
        colors, counts = np.unique(mask[unknown], axis=0, return_counts=True)
        found = ', '.join(
            f'{tuple(c)} ({n} pixels)'
            for c, n in zip(colors[:5].tolist(), counts.tolist(), strict=False)
        )
        raise ValueError(
            f'{path}: {len(colors)} colours of the mask are not in the '
            f'palette: {found}; append a colour that means "no class" to the '
            'palette after the classes'
        )
    return labels[order][slots].astype(np.uint8)


def index_label_sets(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the distinct label vectors of ``(H, W, K)``.

    Returns:
        The index ``(H, W)`` of each pixel's vector, never 255, and the table
        ``(sets, K)``, in which row 255 is all ignored.
    """
    values = np.array([0, 1, IGNORE_INDEX], np.uint8)
    code_of = np.zeros(256, np.int64)
    code_of[values] = np.arange(3)
    index = np.zeros(labels.shape[:2], np.int64)
    sets = np.zeros((1, 0), np.uint8)
    for k in range(labels.shape[2]):
        codes = index * 3 + code_of[labels[..., k]]
        present = np.flatnonzero(np.bincount(codes.ravel()))
        table = np.zeros(present[-1] + 1, np.int64)
        table[present] = np.arange(len(present))
        index = table[codes]
        sets = np.c_[sets[present // 3], values[present % 3]]
    # Transforms fill what they pad or rotate in with 255.
    index[index >= IGNORE_INDEX] += 1
    table = np.full(
        (max(len(sets), IGNORE_INDEX) + 1, sets.shape[1]),
        IGNORE_INDEX,
        np.uint8,
    )
    rows = np.arange(len(sets))
    table[rows + (rows >= IGNORE_INDEX)] = sets
    if len(table) > 2**16:
        raise ValueError(
            f'a mask with {len(sets)} different combinations of labels'
        )
    return index.astype(np.uint8 if len(table) == 256 else np.uint16), table
