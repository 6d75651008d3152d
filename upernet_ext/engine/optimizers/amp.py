"""Mixed precision on the GPU and on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine import optim
from mmengine.config import ConfigDict
from torch import nn

from ...config import ConfigError
from ...registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(optim.AmpOptimWrapper):
    """mmengine's wrapper, which needs a GPU, for the CPU as well.

    The device is that of the parameters. On a GPU, ``float16`` scales the
    loss; ``bfloat16`` has the range of ``float32`` and does not. The CPU has
    ``bfloat16`` only.

    Args:
        loss_scale: For ``float16``: ``'dynamic'``, a fixed scale, or the
            arguments of ``torch.amp.GradScaler``.
        dtype: ``'float16'`` or ``'bfloat16'``; ``None`` is ``float16`` on a
            GPU and ``bfloat16`` on the CPU.
        **kwargs: To mmengine's wrapper: ``optimizer``,
            ``accumulative_counts``, ``clip_grad``, ``use_fsdp``.

    Raises:
        ConfigError: The device cannot compute in ``dtype``.
    """

    def __init__(
        self,
        loss_scale: str | float | dict = 'dynamic',
        dtype: str | torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        groups = kwargs['optimizer'].param_groups
        self.device_type = groups[0]['params'][0].device.type
        dtype = _autocast_dtype(dtype, self.device_type)
        if self.device_type == 'cpu':
            # mmengine's own __init__ asserts a GPU.
            kwargs.pop('use_fsdp', None)
            optim.OptimWrapper.__init__(self, **kwargs)
            self._scale_update_param = None
            self.loss_scaler = torch.amp.GradScaler('cpu', enabled=False)
            self.cast_dtype = dtype
            return
        if dtype is torch.bfloat16:
            loss_scale = dict(enabled=False)
        super().__init__(loss_scale=loss_scale, dtype=dtype, **kwargs)

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore the optimiser and the loss scale.

        A run that had no loss scale (``bfloat16``, or no mixed precision)
        leaves the scale as it is.
        """
        state_dict = dict(state_dict)
        if not state_dict.get('loss_scaler'):
            state_dict.pop('loss_scaler', None)
        super().load_state_dict(state_dict)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Cast, and hold back DDP's all-reduce while accumulating."""
        with (
            optim.OptimWrapper.optim_context(self, model),
            torch.autocast(self.device_type, dtype=self.cast_dtype),
        ):
            yield


def use_mixed_precision(optim_wrapper: ConfigDict) -> None:
    """Turn the config of a plain wrapper into that of ``AmpOptimWrapper``.

    Raises:
        ConfigError: It is of another type, which may not be replaced.
    """
    kind = str(optim_wrapper.get('type', 'OptimWrapper'))
    if kind.split('.')[-1] not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(
            f'optim_wrapper.type={kind!r} has no mixed precision; take '
            "'upernet_ext.AmpOptimWrapper', or do without"
        )
    optim_wrapper['type'] = 'upernet_ext.AmpOptimWrapper'


def _autocast_dtype(
    dtype: str | torch.dtype | None, device_type: str
) -> torch.dtype:
    """Name the type to compute in; raise where the device lacks it."""
    if dtype is None:
        return torch.bfloat16 if device_type == 'cpu' else torch.float16
    name = str(dtype).removeprefix('torch.')
    if name not in ('float16', 'bfloat16'):
        raise ConfigError(
            f"AmpOptimWrapper computes in 'float16' or 'bfloat16', got "
            f'dtype={name!r}; for float32 use OptimWrapper'
        )
    if device_type == 'cpu' and name == 'float16':
        raise ConfigError(
            "optim_wrapper.dtype='float16' needs a GPU, and the model is on "
            "the CPU; use dtype='bfloat16', or leave dtype out"
        )
    if (
        device_type == 'cuda'
        and name == 'bfloat16'
        and not torch.cuda.is_bf16_supported()
    ):
        raise ConfigError(
            f'{torch.cuda.get_device_name()} has no bfloat16; set '
            "optim_wrapper.dtype='float16'"
        )
    return getattr(torch, name)
