"""Cases of volumes, prepared beforehand or on the spot."""

from collections.abc import Mapping
from typing import Any

from mmcv.transforms import BaseTransform

from ...registry import TRANSFORMS
from ..volumes.case_cache import read_case
from ..volumes.plan import Plan
from ..volumes.preprocessing import preprocess_image


@TRANSFORMS.register_module()
class LoadCase(BaseTransform):
    """Load a normalised and resampled case.

    Sets ``img`` ``float32`` ``(C, *S)`` and its ``img_shape`` ``S``,
    ``spacing`` (mm), ``channels_first`` and ``normalized``; for the way back
    to the file's grid ``ori_shape``, ``ori_spacing``, ``axes`` and
    ``crop_box`` (see ``preprocess_image``). In training also ``gt_seg_map``
    ``uint8`` ``S`` (255 is ignored), which it adds to ``seg_fields``, and
    ``foreground``, voxels of each class: class index to ``(n, rank)``
    integers, and -1 to all annotated voxels where the dataset has an ignore
    label. In tests ``gt_seg_map`` has the file's own grid and is in no
    ``seg_fields``.

    A sample of ``NnUNetDataset`` or ``VolumeFolderDataset`` has
    ``preprocessed``, and its arrays are mapped from the cache: only what
    is used is read. One that has ``img_paths`` alone is prepared here.

    Args:
        test_mode: Whether labels are to have the file's own grid.
        plan: How to prepare what no dataset has prepared; a ``Plan`` or
            its ``to_dict()``.

    Raises:
        ValueError: A training case has no labels, or a file is unusable.
    """

    def __init__(
        self,
        test_mode: bool = False,
        *,
        plan: Plan | Mapping[str, Any] | None = None,
    ) -> None:
        self.test_mode = test_mode
        if isinstance(plan, Mapping):
            plan = Plan.from_dict(plan)
        self.plan = plan

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Load ``results['preprocessed']``, or ``results['img_paths']``."""
        if 'preprocessed' in results:
            case = read_case(results['preprocessed'])
        elif self.plan is not None:
            case = preprocess_image(results['img_paths'], self.plan)
        else:
            raise ValueError(
                f'{results.get("img_path")}: LoadCase needs a sample of '
                'NnUNetDataset or VolumeFolderDataset, or plan=..., how to '
                'prepare an image that is in no dataset'
            )
        source = case.pop('source_seg_map', None)
        results['seg_fields'] = [] if self.test_mode else ['gt_seg_map']
        if self.test_mode:
            case.pop('foreground', None)
            if source is not None:
                case['gt_seg_map'] = source
        elif 'gt_seg_map' not in case:
            raise ValueError(
                f'{results.get("img_path")}: the case has no labels; only '
                'LoadCase(test_mode=True) goes without'
            )
        results.update(case, channels_first=True, normalized=True)
        return results

    def __repr__(self) -> str:
        plan = self.plan and f'{self.plan.dataset} {self.plan.configuration}'
        return f'{type(self).__name__}(test_mode={self.test_mode}, {plan=})'
