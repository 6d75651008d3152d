"""Autocast, on devices that have none too (meta)."""

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """Return what autocast computes with now; ``None`` where it is off."""
    kind = device.type
    if not torch.amp.is_autocast_available(kind):
        return None
    enabled = torch.is_autocast_enabled(kind)
    return torch.get_autocast_dtype(kind) if enabled else None


def autocast(
    device: torch.device, dtype: torch.dtype | None
) -> AbstractContextManager:
    """Compute as ``autocast_dtype`` told it before."""
    if dtype is None:
        return no_autocast(device)
    return torch.autocast(device.type, dtype)


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Compute in the tensors' own types."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()
    return torch.autocast(device.type, enabled=False)
