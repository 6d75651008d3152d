"""Checkpoints of what is trained alone."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.logging import print_log

from ...config import ConfigError
from ...models.tuning.partial import BASE, describe_base
from ...registry import HOOKS
from ..runner import Runner


@HOOKS.register_module()
class SaveTrainable(Hook):
    """Leave the frozen published weights out of the checkpoints.

    What remains are adapters, neck and heads, all buffers, and whatever else
    ``model.backbone.pretrained`` cannot give back. ``meta['base']`` marks the
    file as partial: it has the source of the base weights, their names and
    their SHA-256. ``Runner`` (load, test, resume) and ``init_model`` read the
    base again, and raise where it is missing or another one.
    """

    def before_train(self, runner: Runner) -> None:
        """Find out what can be left out.

        Raises:
            ConfigError: A runner that could not read the file again.
            WeightsError: Nothing is frozen, or there are no base weights.
        """
        if not isinstance(runner, Runner):
            raise ConfigError(
                f'SaveTrainable works with upernet_ext.Runner, not with '
                f'{type(runner).__name__}; set runner_type'
            )
        model = runner.bare_model
        self._base = describe_base(model)
        total = sum(v.numel() for v in model.state_dict().values())
        left_out = sum(
            model.get_parameter(n).numel() for n in self._base['names']
        )
        print_log(
            f'Checkpoints hold {total - left_out:,} of {total:,} values; the '
            f'others are those of {self._base["source"]}',
            logger='current',
        )

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Take out what the base weights have."""
        left_out = set(self._base['names'])
        checkpoint['state_dict'] = {
            name: value
            for name, value in checkpoint['state_dict'].items()
            if name not in left_out
        }
        checkpoint['meta'][BASE] = self._base
