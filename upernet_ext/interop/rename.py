"""Rename the tensors of a state dict."""

import re
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

Rule = tuple[str, str | Callable[[re.Match], str]]


def substitute(
    state_dict: Mapping[str, Tensor], rules: Sequence[Rule]
) -> dict[str, Tensor]:
    """Apply every rule (pattern, replacement), in order, to every name."""
    renamed = {}
    for name, value in state_dict.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def rename_modules(
    state_dict: Mapping[str, Tensor], modules: Mapping[str, str]
) -> dict[str, Tensor]:
    """Rename the modules that hold the tensors; others keep their names.

    Args:
        state_dict: Names and tensors.
        modules: Old path of a module -> its new path.
    """
    renamed = {}
    for name, value in state_dict.items():
        module, _, leaf = name.rpartition('.')
        renamed[f'{modules.get(module, module)}.{leaf}'.lstrip('.')] = value
    return renamed
