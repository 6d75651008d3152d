"""A config whose numbers follow from its dataset of volumes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DefaultScope

from ..config import load_config
from ..datasets.volumes import Plan
from ..datasets.volumes.dataset import VolumeDataset
from ..datasets.volumes.raw import nnunet_folder
from ..models.adapters import ISOTROPIC, Halvings, plan_halvings
from ..registry import DATASETS


def load_planned_config(
    path: str | Path, *, overrides: Mapping[str, Any] | None = None
) -> Config:
    """Read a config; plan its dataset of volumes and fill the numbers in.

    Any other config is read as ``load_config`` does. Of volumes, the channels
    and classes, the rank, patch, halvings and batch size take the place of
    those in ``_base_/datasets``; a file that sets one of them again wins, and
    so does an override. The plan itself becomes part of the pipelines, so
    that a checkpoint can prepare a new case.

    Args:
        path: See ``load_config``.
        overrides: See ``load_config``.

    Raises:
        ConfigError: See ``load_config``.
        ValueError: The dataset is not there or not usable.
    """
    cfg = load_config(path, overrides=overrides)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        dataset = _volumes(cfg)
    if dataset is None:
        return cfg
    plan = dataset.make_plan()
    cfg = load_config(
        path, overrides=overrides, variables=plan_variables(plan)
    )
    if cfg.get('work_dir') is None:
        cfg.work_dir = str(_work_dir(cfg, dataset, plan))
    return cfg


def plan_variables(plan: Plan) -> dict[str, Any]:
    """Return the variables of a config that a plan decides."""
    return dict(
        spatial_dims=plan.spatial_dims,
        in_channels=plan.in_channels,
        num_classes=plan.num_classes,
        multi_label=plan.multi_label,
        crop_size=plan.patch_size,
        halvings=_halvings(plan),
        batch_size=plan.batch_size,
        plan=plan.to_dict(),
    )


def _halvings(plan: Plan) -> Halvings:
    if plan.spatial_dims == 2:
        return ISOTROPIC
    return plan_halvings(plan.spacing, plan.patch_size)


def _volumes(cfg: Config) -> VolumeDataset | None:
    """Build the dataset that is trained on, if it is one of volumes."""
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = (cfg.get(loader) or {}).get('dataset') or {}
        while isinstance(dataset.get('dataset'), Mapping):
            dataset = dataset.dataset
        kind = DATASETS.get(dataset['type']) if 'type' in dataset else None
        if isinstance(kind, type) and issubclass(kind, VolumeDataset):
            return DATASETS.build({**dataset, 'lazy_init': True})
    return None


def _work_dir(cfg: Config, dataset: VolumeDataset, plan: Plan) -> Path:
    """Name the folder of results as nnU-Net does."""
    name = Path(cfg.filename).stem
    return (
        (nnunet_folder('results') or Path('work_dirs'))
        / plan.dataset
        / f'{name}__{plan.configuration}'
        / f'fold_{dataset.fold}'
    )
