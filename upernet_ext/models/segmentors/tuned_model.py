"""A model of which a part is trained."""

from collections.abc import Mapping
from typing import Any, Self

from torch import nn

from ..tuning import apply_tuning, log_parameters, merge_lora


class TunedModel:
    """Give a model with a ``backbone`` the choice of what is trained."""

    backbone: nn.Module
    init_arguments: Mapping[str, Any]
    # In a tuple, modules are no children a second time.
    _kept_in_eval: tuple[nn.Module, ...] = ()

    def tune(self, tuning: Mapping[str, Any]) -> None:
        """Choose what of the backbone is trained; see ``apply_tuning``."""
        self._kept_in_eval = tuple(apply_tuning(self.backbone, tuning))
        self._remember(tuning)
        log_parameters(self)

    def merge_lora(self) -> None:
        """Merge the adapters: plain names and modules, the same numbers."""
        merge_lora(self.backbone)
        self._remember(None)

    def _remember(self, tuning: Mapping[str, Any] | None) -> None:
        """Let a model that is rebuilt from its arguments be what this is."""
        self.init_arguments = {**self.init_arguments, 'tuning': tuning}

    def train(self, mode: bool = True) -> Self:
        """Train or evaluate; what is frozen stays in evaluation mode."""
        super().train(mode)
        for module in self._kept_in_eval:
            module.training = False
        return self
