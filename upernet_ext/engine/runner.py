"""mmengine's Runner, with what it lacks."""

import logging
import os
import re
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import mmengine
import torch
from mmengine import device as mmengine_device
from mmengine.dist import is_distributed, master_only
from mmengine.logging import MMLogger
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import find_latest_checkpoint
from torch import distributed as torch_dist
from torch import nn
from torch.utils.data import DataLoader

from ..config import ConfigError
from ..interop import WeightsError, load_segmentor, read_checkpoint
from ..models.tuning.partial import complete_weights
from ..registry import RUNNERS
from .compiling import compile_parts, options_of
from .dataset_paths import check_dataset_paths


@RUNNERS.register_module()
class Runner(mmengine.runner.Runner):
    """A run on GPUs or CPUs whose weights load completely or not at all.

    On top of mmengine's Runner, and with its arguments:

    * Checkpoints (``load_from``, test, resume) are read without running code
      from them, and every name must match. What was loaded is logged; the
      receipt of the weights that a training began with (of a checkpoint, or
      the model's own ``receipt`` of its pretrained backbone) goes into its
      checkpoints as ``meta['receipt']``. A checkpoint of the trained part
      alone (``SaveTrainable``) is completed from the backbone's
      ``pretrained``, which must be what it was trained beside.
    * ``device`` in the config is ``'cpu'``, ``'cuda'`` or ``None`` (what the
      machine has). Several CPU processes talk over gloo.
    * ``compile`` in the config is ``True`` or arguments of ``torch.compile``,
      for backbone, neck and heads.
    * A missing data folder is named before a dataset is built.
    * ``deterministic=True`` warns of an operation that has no deterministic
      implementation on the GPU instead of failing at it.
    """

    receipt: dict | None = None
    _is_compiled = False

    def setup_env(self, env_cfg: dict) -> None:
        """Choose the device, then set up as mmengine does.

        Raises:
            ConfigError: There is no such device.
        """
        self.device = _choose_device(self.cfg.get('device'))
        if self.device == 'cpu' and self.distributed and not is_distributed():
            _init_gloo(self.launcher, env_cfg.get('dist_cfg', {}))
        super().setup_env(env_cfg)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build mmengine's logger; its long dumps go to the file alone."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(_is_no_dump)
        return logger

    def set_randomness(
        self,
        seed: int | None,
        diff_rank_seed: bool = False,
        deterministic: bool = False,
    ) -> None:
        """Seed every generator; see mmengine for the arguments."""
        super().set_randomness(seed, diff_rank_seed, deterministic)
        if deterministic:
            # Some backward passes that every segmentor needs (adaptive
            # pooling, the loss of a map) have only one version on CUDA.
            torch.use_deterministic_algorithms(True, warn_only=True)

    def wrap_model(
        self, model_wrapper_cfg: dict | None, model: nn.Module
    ) -> nn.Module:
        """Move the model to its device, and wrap it if there are ranks."""
        with warnings.catch_warnings():
            # mmengine's argument, which torch is renaming.
            warnings.filterwarnings(
                'ignore', '`broadcast_buffers` is deprecated', FutureWarning
            )
            if self.device != 'cpu' or is_model_wrapper(model):
                return super().wrap_model(model_wrapper_cfg, model)
            model = revert_sync_batchnorm(model.to('cpu'))
            if not self.distributed:
                return model
            cfg = dict(
                type='MMDistributedDataParallel',
                broadcast_buffers=False,
                find_unused_parameters=self.cfg.get(
                    'find_unused_parameters', False
                ),
            )
            return MODEL_WRAPPERS.build(
                {**cfg, **(model_wrapper_cfg or {})},
                default_args=dict(module=model),
            )

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | Mapping,
        seed: int | None = None,
        diff_rank_seed: bool = False,
    ) -> DataLoader:
        """Build a dataloader, once its files are known to be there.

        Raises:
            DataNotFoundError: A folder that the dataset reads is missing.
        """
        if isinstance(dataloader, Mapping):
            check_dataset_paths(dataloader.get('dataset'))
        return mmengine.runner.Runner.build_dataloader(
            dataloader, seed, diff_rank_seed
        )

    def _init_model_weights(self) -> None:
        # A checkpoint of the whole model follows: the backbone's published
        # weights would be read, and need to be there, for nothing.
        will_load = self._load_from is not None or (
            self._resume and find_latest_checkpoint(self.work_dir) is not None
        )
        if not will_load:
            super()._init_model_weights()
            receipt = getattr(self.bare_model, 'receipt', None)
            self.receipt = receipt and receipt.to_dict()

    @property
    def bare_model(self) -> nn.Module:
        """The model without its parallel wrapper."""
        wrapped = is_model_wrapper(self.model)
        return self.model.module if wrapped else self.model

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: str = 'cpu',
    ) -> None:
        """Continue a run: weights, optimiser, schedule, iteration, log.

        Raises:
            WeightsError: The weights do not fit, or the file holds no run.
        """
        self._resume = True
        super().resume(
            filename, resume_optimizer, resume_param_scheduler, map_location
        )

    def load_or_resume(self) -> None:
        """Load the weights, then compile what the config's ``compile`` says.

        Backbone, neck and heads; mmengine would compile the whole training
        step, losses and optimiser included.
        """
        super().load_or_resume()
        options = options_of(self.cfg.get('compile'))
        if options is not None and not self._is_compiled:
            names = compile_parts(self.bare_model, **options)
            self._is_compiled = True
            self.logger.info(
                f'To be compiled at their first call: {", ".join(names)}'
            )

    def _maybe_compile(self, target: str) -> None:
        """Leave mmengine's ``train_step`` alone: see ``load_or_resume``."""

    def load_checkpoint(
        self,
        filename: str,
        map_location: str = 'cpu',
        strict: bool = True,
        revise_keys: Sequence[tuple[str, str]] = ((r'^module\.', ''),),
    ) -> dict:
        """Load a whole model; every name and shape must match.

        Args:
            filename: Path or https URL.
            map_location: Device to read to.
            strict: Must be true; mmengine's default was to load what fits.
            revise_keys: Patterns and what replaces them in the names.

        Returns:
            The checkpoint.

        Raises:
            WeightsError: See ``interop.load_segmentor``; or the run resumes
                and the file holds weights only.
            ValueError: ``strict=False``.
        """
        if not strict:
            raise ValueError(
                'weights load completely or not at all; for a part of a '
                "model use the backbone's pretrained"
            )
        checkpoint = read_checkpoint(filename, map_location=map_location)
        meta = checkpoint.get('meta', {})
        # mmengine would execute this old form of the config when resuming.
        meta.pop('config', None)
        if self._resume:
            _check_resumable(checkpoint, filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        for pattern, replacement in revise_keys:
            checkpoint['state_dict'] = {
                re.sub(pattern, replacement, name): value
                for name, value in checkpoint['state_dict'].items()
            }
        model, source = self.bare_model, str(filename)
        receipt = load_segmentor(
            model,
            complete_weights(model, checkpoint, source=source),
            source=source,
        )
        self.logger.info(receipt.summary())
        # A resumed run keeps the receipt of the weights that it began with.
        began_with = meta.get('receipt') if self._resume else None
        self.receipt = began_with or receipt.to_dict()
        self._has_loaded = True
        return checkpoint

    @master_only
    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        *args: Any,
        meta: dict | None = None,
        **kwargs: Any,
    ) -> None:
        """Save a checkpoint; see mmengine. The receipt goes into its meta."""
        if self.receipt is not None:
            meta = {**(meta or {}), 'receipt': self.receipt}
        super().save_checkpoint(out_dir, filename, *args, meta=meta, **kwargs)


def _is_no_dump(record: logging.LogRecord) -> bool:
    """Tell what a reader of the terminal wants to see."""
    hidden = (
        *('System environment:', 'Config:\n', 'Hooks will be executed'),
        # mmengine about its own checkpoint hook, at every start
        *('"FileClient" will be', '"HardDiskBackend" is the alias'),
    )
    return not any(part in record.getMessage()[:200] for part in hidden)


def _choose_device(name: str | None) -> str:
    """Turn the config's ``device`` into a type of device.

    Raises:
        ConfigError: This machine has no such device.
    """
    if name is None:
        name = mmengine_device.get_device()
    if name not in ('cpu', mmengine_device.get_device()):
        raise ConfigError(
            f'device={name!r}, but torch {torch.__version__} finds no such '
            "device here; use device='cpu', or None for what there is"
        )
    ranks = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    if name == 'cuda' and ranks > torch.cuda.device_count():
        raise ConfigError(
            f'{ranks} processes were started on a machine with '
            f'{torch.cuda.device_count()} GPUs; start one a GPU, or use '
            "device='cpu'"
        )
    return name


def _check_resumable(checkpoint: Mapping, filename: str) -> None:
    wanted = ('meta', 'message_hub', 'optimizer')
    missing = [name for name in wanted if name not in checkpoint]
    if missing:
        raise WeightsError(
            f'{filename} has no {", ".join(missing)}, so no run can be '
            'resumed from it (the best checkpoint holds weights only); '
            'resume from an iter_*.pth or epoch_*.pth, or start a new run '
            'with load_from'
        )


def _init_gloo(launcher: str, dist_cfg: Mapping) -> None:
    """Join the processes of a launcher on CPUs.

    mmengine does this for GPUs only: it selects a CUDA device first.
    """
    if launcher == 'slurm':
        if 'MASTER_ADDR' not in os.environ:
            nodes = os.environ['SLURM_NODELIST']
            hosts = subprocess.run(
                ['scontrol', 'show', 'hostnames', nodes],
                capture_output=True,
                text=True,
                check=True,
            )
            os.environ['MASTER_ADDR'] = hosts.stdout.split()[0]
        os.environ.setdefault('MASTER_PORT', '29500')
        os.environ['RANK'] = os.environ['SLURM_PROCID']
        os.environ['WORLD_SIZE'] = os.environ['SLURM_NTASKS']
        os.environ['LOCAL_RANK'] = os.environ['SLURM_LOCALID']
    elif launcher != 'pytorch':
        raise ConfigError(
            f'launcher={launcher!r} does not work on the CPU; use '
            "'pytorch' (torchrun) or 'slurm'"
        )
    timeout = dist_cfg.get('timeout')
    torch_dist.init_process_group(
        'gloo', timeout=timeout and timedelta(seconds=timeout)
    )
