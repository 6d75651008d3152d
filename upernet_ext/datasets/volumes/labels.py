"""What dataset.json says about channels and labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...structures import IGNORE_INDEX
from .reading import Volume, check_same_geometry, read_volume


@dataclass(frozen=True)
class Labels:
    """The classes of a dataset and the values they have in its files.

    Attributes:
        classes: Names: of labels 0, 1, ..., or of the regions.
        num_values: Values 0 to ``num_values - 1`` are labels.
        regions: Of each class the values it consists of, where classes are
            regions, which may overlap.
        regions_class_order: The value to write for each region, later ones
            over earlier ones.
        ignore_label: The value of voxels that are not annotated.
    """

    classes: tuple[str, ...]
    num_values: int
    regions: tuple[tuple[int, ...], ...] | None = None
    regions_class_order: tuple[int, ...] | None = None
    ignore_label: int | None = None

    @property
    def multi_label(self) -> bool:
        """Whether the classes are regions."""
        return self.regions is not None

    def label_sets(self) -> np.ndarray | None:
        """Return which regions each label belongs to.

        Returns:
            0/1 ``(256, K)`` of ``uint8``, row 255 all ignored, or ``None``
            without regions.
        """
        if self.regions is None:
            return None
        table = np.zeros((IGNORE_INDEX + 1, len(self.regions)), np.uint8)
        for k, values in enumerate(self.regions):
            table[list(values), k] = 1
        table[IGNORE_INDEX] = IGNORE_INDEX
        return table

    def read(self, path: str, *, like: Volume) -> np.ndarray:
        """Read a label file.

        Args:
            path: The file.
            like: Its image.

        Returns:
            ``uint8`` ``(z, y, x)``; 255 is ignored.

        Raises:
            ValueError: The file is unusable, its geometry is not that of
                the image, or a value is no integer or no label.
        """
        volume = read_volume(path)
        check_same_geometry(like, volume)
        array = volume.array
        if array.dtype.kind == 'f':
            broken = array != np.rint(array)
            if broken.any():
                raise ValueError(
                    f'{path}: labels must be integers, {int(broken.sum())} '
                    f'voxels are not, such as {array[broken][0]:.6g}; were '
                    'they resampled?'
                )
        last = self.num_values - (self.ignore_label is None)
        wrong = (array < 0) | (array > last)
        if wrong.any():
            values = np.unique(array[wrong])[:5].tolist()
            raise ValueError(
                f'{path}: {int(wrong.sum())} voxels have values '
                f'{", ".join(f"{v:g}" for v in values)}, which are no labels '
                f'of the dataset: 0 to {last}; correct the file or the '
                'labels in dataset.json'
            )
        labels = array.astype(np.uint8)
        if self.ignore_label is not None:
            labels[labels == self.ignore_label] = IGNORE_INDEX
        return labels


def parse_labels(description: Mapping[str, Any], path: str) -> Labels:
    """Read ``labels`` and ``regions_class_order`` of a dataset.json.

    nnU-Net writes ``{name: value or list of values}``, the Medical
    Segmentation Decathlon ``{value: name}``.

    Raises:
        ValueError: Background is not 0, values are not 0, 1, 2, ... without
            a gap, 'ignore' is not the last, or regions have no order.
    """
    given = description.get('labels')
    if not isinstance(given, Mapping) or not given:
        raise ValueError(
            f'{path}: needs labels, such as '
            '{"background": 0, "tumour": 1}, got '
            f'{given!r}'
        )
    if all(str(key).isdigit() for key in given):
        given = {name: int(value) for value, name in given.items()}
    values = {name: _values(name, v, path) for name, v in given.items()}
    ignore = values.pop('ignore', None)
    numbers = sorted({v for group in values.values() for v in group})
    if (0,) not in values.values():
        raise ValueError(f'{path}: labels must say "background": 0')
    if numbers != list(range(len(numbers))):
        raise ValueError(
            f'{path}: the values of labels must be 0, 1, 2, ... without a '
            f'gap, got {numbers}'
        )
    if ignore is not None and ignore != (len(numbers),):
        raise ValueError(
            f'{path}: the value of "ignore" must be the one after the last '
            f'label, {len(numbers)}, got {list(ignore)}'
        )
    if len(numbers) >= IGNORE_INDEX:
        raise ValueError(
            f'{path}: {len(numbers)} labels, but label maps have 8 bits'
        )
    order = description.get('regions_class_order')
    return _build(values, ignore, len(numbers), order, path)


def _build(
    values: dict[str, tuple[int, ...]],
    ignore: tuple[int, ...] | None,
    num_values: int,
    order: Sequence[int] | None,
    path: str,
) -> Labels:
    ignore_label = None if ignore is None else ignore[0]
    if all(len(group) == 1 for group in values.values()):
        classes = sorted(values, key=values.get)
        if len(classes) != num_values:
            raise ValueError(f'{path}: two labels have the same value')
        return Labels(tuple(classes), num_values, ignore_label=ignore_label)
    regions = {name: v for name, v in values.items() if v != (0,)}
    if order is None or len(order) != len(regions):
        raise ValueError(
            f'{path}: the {len(regions)} regions {list(regions)} need '
            'regions_class_order, the value to write for each, later ones '
            f'over earlier ones; got {order}'
        )
    return Labels(
        tuple(regions),
        num_values,
        tuple(regions.values()),
        tuple(int(value) for value in order),
        ignore_label,
    )


def _values(name: str, value: Any, path: str) -> tuple[int, ...]:
    group = value if isinstance(value, list | tuple) else [value]
    try:
        return tuple(sorted({int(v) for v in group}))
    except (TypeError, ValueError):
        raise ValueError(
            f'{path}: label {name!r} must be an integer or a list of them, '
            f'got {value!r}'
        ) from None
