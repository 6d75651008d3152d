"""MONAI's dictionary transforms in a config: ``dict(type='monai.X', ...)``.

Library: https://github.com/Project-MONAI/MONAI, Apache-2.0.
"""

import functools
import inspect
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import registry as root
from mmengine.registry import Registry

from ...registry import TRANSFORMS
from ..layout import channels_first_image

_KEYS = ('image', 'label')
# The folder of MONAI that a transform comes from -> what it changes.
_CHANGES = {
    'spatial': _KEYS,
    'croppad': _KEYS,
    'intensity': ('image',),
    'smooth_field': ('image',),
}
_EXCEPTIONS = {
    'RandSmoothDeformd': _KEYS,
    'RandSimulateLowResolutiond': ('image',),
}
# They need the affine of the file, which stays behind when a case is loaded.
_GEOMETRIC = (
    'Spacingd',
    'Orientationd',
    'SpatialResampled',
    'ResampleToMatchd',
)


@TRANSFORMS.register_module()
class MonaiTransform(BaseTransform):
    """A dictionary transform of MONAI on a sample's image and labels.

    ``dict(type='monai.RandAffined', prob=0.2, rotate_range=0.3)`` is short
    for ``dict(type='upernet_ext.MonaiTransform', name='RandAffined', ...)``.
    MONAI sees ``image`` ``(C, *S)`` and ``label`` ``(1, *S)``. Spatial
    transforms get both by default, transforms of intensities the image, all
    others need ``keys``. Labels are interpolated by ``'nearest'`` unless
    ``mode`` is a list. Numbers are drawn from numpy's global generator, which
    workers seed.

    Takes and gives arrays: ``img`` as MONAI returns it, mostly ``float32``,
    ``gt_seg_map`` with the type it has. Updates ``img_shape``, and drops
    ``foreground`` (voxel coordinates) where it may have moved.

    Args:
        name: A class of ``monai.transforms`` that takes ``keys``.
        **kwargs: Its arguments.

    Raises:
        ImportError: MONAI is not installed.
        ValueError: There is no such transform, or it makes several samples
            of one or needs the file's geometry.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        monai = _monai_transforms()
        kind = _find(name, monai)
        self.name = kind.__name__
        parameters = inspect.signature(kind).parameters
        if 'keys' not in kwargs:
            kwargs['keys'] = _default_keys(kind)
        keys = kwargs['keys']
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        if not set(self.keys) <= set(_KEYS):
            raise ValueError(
                f"monai.{self.name}: keys may hold 'image' and 'label', got "
                f'{self.keys}'
            )
        if 'label_key' in parameters:
            kwargs.setdefault('label_key', 'label')
        if _family(kind) == 'spatial' and 'mode' in parameters:
            mode = kwargs.get('mode', parameters['mode'].default)
            if not isinstance(mode, list | tuple):
                modes = dict(image=mode, label='nearest')
                kwargs['mode'] = [modes[key] for key in self.keys]
        self.transform_monai = kind(**kwargs)
        self.random = isinstance(self.transform_monai, monai.Randomizable)
        self.arguments = kwargs

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Run the transform."""
        image = channels_first_image(results, f'monai.{self.name}')
        data = dict(image=_writeable(image))
        if 'gt_seg_map' in results:
            data['label'] = _writeable(results['gt_seg_map'])[None]
        elif 'label' in self.keys:
            raise ValueError(
                f'{results.get("img_path")}: monai.{self.name} changes the '
                "labels, but there are none; give keys='image'"
            )
        if self.random:
            seed = np.random.randint(2**32, dtype=np.uint32)
            self.transform_monai.set_random_state(seed=int(seed))
        data = self.transform_monai(data)
        if isinstance(data, list):
            if len(data) != 1:
                raise ValueError(
                    f'{results.get("img_path")}: monai.{self.name} makes '
                    f'{len(data)} samples of one; here a sample stays one'
                )
            data = data[0]
        results['img'] = np.ascontiguousarray(data['image'])
        if 'label' in self.keys:
            labels = results['gt_seg_map']
            moved = np.rint(data['label'][0]).astype(labels.dtype)
            results['gt_seg_map'] = np.ascontiguousarray(moved)
            results.pop('foreground', None)
        results['img_shape'] = results['img'].shape[1:]
        return results

    def __repr__(self) -> str:
        return f'monai.{self.name}({self.arguments})'


class _MonaiRegistry(Registry):
    """Find ``monai.X`` in MONAI itself."""

    def get(self, key: str) -> functools.partial:
        return functools.partial(MonaiTransform, key)


# mmengine looks a prefix up among the children of its root.
_MonaiRegistry('transform', parent=root.TRANSFORMS, scope='monai')


def _monai_transforms() -> ModuleType:
    try:
        from monai import transforms
    except ImportError as error:
        raise ImportError(
            "transforms written 'monai.X' need MONAI: "
            "pip install 'upernet_ext[volumes]'"
        ) from error
    return transforms


def _find(name: str, monai: ModuleType) -> type:
    """Return the class; ``RandAffined``, ``RandAffineD`` or ``...Dict``."""
    kind = getattr(monai, name, None)
    if not _takes_keys(kind, monai):
        names = [n for n in dir(monai) if _takes_keys(vars(monai)[n], monai)]
        close = get_close_matches(name, names, 3, cutoff=0.5)
        hint = f'; did you mean {" or ".join(close)}?' if close else ''
        raise ValueError(
            f'monai.{name}: MONAI has no dictionary transform of that name'
            f'{hint}'
        )
    if kind.__name__ in _GEOMETRIC:
        raise ValueError(
            f'monai.{kind.__name__} needs the geometry of the file, which '
            'upernet_ext.LoadCase has used already: it resamples to the '
            "spacing of the plan; change the plan's spacing instead"
        )
    return kind


def _takes_keys(kind: Any, monai: ModuleType) -> bool:
    return inspect.isclass(kind) and issubclass(kind, monai.MapTransform)


def _family(kind: type) -> str:
    return kind.__module__.split('.')[2]


def _default_keys(kind: type) -> tuple[str, ...]:
    keys = _EXCEPTIONS.get(kind.__name__, _CHANGES.get(_family(kind)))
    if keys is None:
        raise ValueError(
            f"monai.{kind.__name__}: say what it changes: keys='image', "
            "'label' or ['image', 'label']"
        )
    return keys


def _writeable(array: np.ndarray) -> np.ndarray:
    """Copy what is mapped from a file: MONAI writes into what it gets."""
    return np.require(array, requirements=['C', 'W'])
