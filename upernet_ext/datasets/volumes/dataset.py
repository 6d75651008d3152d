"""Datasets of volumes for training, validation and test."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset

from ...registry import DATASETS
from ..palette import generate_palette
from ..pipeline import run_pipeline
from .case_cache import cache_cases
from .plan import Plan
from .planning import DEFAULT_PLANS, plan_dataset, preprocessed_folder
from .raw import Case, RawDataset, find_dataset, find_volume_folder
from .splits import select_fold

SPLITS = ('train', 'val', 'test')


class VolumeDataset(BaseSegDataset):
    """Cases of a dataset of volumes, prepared once and kept on disk.

    Pipelines start with ``upernet_ext.LoadCase``. Samples carry ``case``,
    ``img_path`` and ``img_paths``, ``seg_map_path``, ``num_classes``,
    ``preprocessed`` and, for regions, ``label_sets``. The metainfo has
    ``classes``, ``palette``, ``multi_label``, ``regions_class_order``,
    ``file_ending`` and the ``plan`` (see ``Plan.to_dict``), so a checkpoint
    knows how a new image is to be prepared.

    Args:
        configuration: ``'3d_fullres'``, ``'2d'``, or another one of the
            nnUNetPlans.json.
        fold: Its number, or ``'all'``: all cases train and validate.
        split: ``'train'``, ``'val'`` or ``'test'``: the cases outside the
            training set, or the ones to validate on where there are none,
            which is said.
        preprocessed: Where prepared cases are kept, instead of
            ``nnUNet_preprocessed``; see ``preprocessed_folder``.
        plans: The name of the plans file, without ``.json``.
        batch_voxels: See ``choose_patch``.
        num_workers: Threads that prepare; see ``do_missing``.
        pipeline: The transforms.
        test_mode: Whether samples are only predicted or measured.
        indices: Use the first ``indices`` samples, or these ones.
        lazy_init: Whether to wait with everything until ``full_init``.

    Raises:
        ValueError: Something is missing or unusable; the message names the
            file.
    """

    def __init__(
        self,
        configuration: str = '3d_fullres',
        fold: int | str = 0,
        *,
        split: Literal['train', 'val', 'test'] = 'train',
        preprocessed: str | Path | None = None,
        plans: str = DEFAULT_PLANS,
        batch_voxels: int | None = None,
        num_workers: int | None = None,
        pipeline: Sequence[dict | Callable] = (),
        test_mode: bool = False,
        indices: int | Sequence[int] | None = None,
        lazy_init: bool = False,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(
                f'{type(self).__name__}: split must be one of {SPLITS}, got '
                f'{split!r}'
            )
        self.configuration, self.fold, self.split = configuration, fold, split
        self.preprocessed = preprocessed
        self.plans = plans
        self.batch_voxels = batch_voxels
        self.num_workers = num_workers
        super().__init__(
            metainfo=dict(classes=()),
            pipeline=list(pipeline),
            test_mode=test_mode,
            indices=indices,
            serialize_data=False,
            lazy_init=lazy_init,
        )

    def find(self) -> RawDataset:
        """Find the files."""
        raise NotImplementedError

    def make_plan(self, raw: RawDataset | None = None) -> Plan:
        """Find out how the dataset is to be prepared; see ``plan_dataset``."""
        return plan_dataset(
            raw or self.find(),
            self.configuration,
            preprocessed=self.preprocessed,
            plans=self.plans,
            batch_voxels=self.batch_voxels,
            num_workers=self.num_workers,
        )

    def load_data_list(self) -> list[dict[str, Any]]:
        """Plan the dataset and prepare the cases of this split."""
        raw = self.find()
        folder = preprocessed_folder(raw, self.preprocessed)
        self.plan = self.make_plan(raw)
        self._metainfo.update(_metainfo(self.plan))
        cases = self._choose(raw)
        stems = cache_cases(
            cases, self.plan, folder, num_workers=self.num_workers
        )
        return [
            _describe(case, stem, self.plan)
            for case, stem in zip(cases, stems, strict=True)
        ]

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Return what is known of sample ``idx``."""
        sample = super().get_data_info(idx)
        sample['seg_fields'] = []
        if self.plan.multi_label:
            sample['label_sets'] = self.plan.labels.label_sets()
        return sample

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on sample ``idx``; errors name the image."""
        return run_pipeline(self.pipeline, self.get_data_info(idx))

    def _choose(self, raw: RawDataset) -> list[Case]:
        """Return the cases of the split."""
        if self.split == 'test' and raw.testing:
            return list(raw.testing)
        cases = {case.name: case for case in raw.training}
        fold = select_fold(self.plan.folds, self.fold, list(cases))
        if self.split == 'test':
            print_log(
                f'{raw.root} has no test cases: testing on the '
                f'{len(fold["val"])} cases that fold {self.fold} validates '
                'on',
                'current',
            )
        part = 'train' if self.split == 'train' else 'val'
        return [cases[name] for name in fold[part]]


@DATASETS.register_module()
class NnUNetDataset(VolumeDataset):
    """A dataset in nnU-Net's raw format.

    ``dict(type='upernet_ext.NnUNetDataset', dataset=4, fold=0,
    split='train')`` reads ``imagesTr/{case}_{XXXX}{file_ending}`` and
    ``labelsTr/{case}{file_ending}`` of ``$nnUNet_raw/Dataset004_*``, as its
    dataset.json says, in ``.nii.gz``, ``.nii``, ``.mha`` or ``.nrrd``; with
    ``split='test'``, ``imagesTs`` and, where they are there, ``labelsTs``.

    Folds are nnU-Net's; an existing splits_final.json and nnUNetPlans.json
    win over ours. See ``VolumeDataset`` for what all datasets of volumes
    share.

    Args:
        dataset: Number, name or folder.
        configuration: ``'3d_fullres'`` or ``'2d'``; see ``VolumeDataset``.
        fold: Its number or ``'all'``.
        raw: The folder of datasets, instead of ``nnUNet_raw``.
        **kwargs: Of ``VolumeDataset``: ``split``, ``pipeline``,
            ``preprocessed`` and so on.
    """

    def __init__(
        self,
        dataset: int | str | Path,
        configuration: str = '3d_fullres',
        fold: int | str = 0,
        *,
        raw: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        self.dataset, self.raw = dataset, raw
        super().__init__(configuration, fold, **kwargs)

    def find(self) -> RawDataset:
        """Find the files; see ``find_dataset``."""
        return find_dataset(self.dataset, self.raw)


@DATASETS.register_module()
class VolumeFolderDataset(VolumeDataset):
    """A folder of volumes without nnU-Net's names.

    It holds a dataset.json of the Medical Segmentation Decathlon, or a
    folder of images and one of labels with equal names; see
    ``find_volume_folder``. All else is as in ``NnUNetDataset``.

    Args:
        data_root: The folder.
        classes: Names of labels 0 (background), 1, ...; from dataset.json
            where there is one.
        channel_names: One a channel, ``'CT'`` for CT.
        img_dir: The folder of images, if it has another name.
        ann_dir: The folder of labels, if it has another name.
        **kwargs: Of ``VolumeDataset``: ``configuration``, ``fold``,
            ``split``, ``pipeline`` and so on.
    """

    def __init__(
        self,
        data_root: str | Path,
        classes: Sequence[str] | None = None,
        *,
        channel_names: Sequence[str] | None = None,
        img_dir: str | None = None,
        ann_dir: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.root = data_root
        self.options = dict(
            classes=classes,
            channel_names=channel_names,
            img_dir=img_dir,
            ann_dir=ann_dir,
        )
        super().__init__(**kwargs)

    def find(self) -> RawDataset:
        """Find the files; see ``find_volume_folder``."""
        return find_volume_folder(self.root, **self.options)


def _metainfo(plan: Plan) -> dict[str, Any]:
    return dict(
        classes=plan.classes,
        palette=generate_palette(plan.classes),
        multi_label=plan.multi_label,
        regions_class_order=plan.labels.regions_class_order,
        file_ending=plan.file_ending,
        plan=plan.to_dict(),
    )


def _describe(case: Case, stem: str, plan: Plan) -> dict[str, Any]:
    sample = dict(
        case=case.name,
        img_path=case.images[0],
        img_paths=case.images,
        preprocessed=stem,
        num_classes=plan.num_classes,
        multi_label=plan.multi_label,
        label_map=None,
        reduce_zero_label=False,
    )
    if case.labels is not None:
        sample['seg_map_path'] = case.labels
    return sample
