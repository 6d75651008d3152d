"""How far two results are apart."""

import math
from collections.abc import Mapping

from torch import Tensor, nn

from .row import Results


def relative_error(found: Results, wanted: Results) -> float:
    """Compare floats, a group at a time.

    Returns:
        The root of the summed squared differences over that of ``wanted``,
        of the group where it is largest.

    Raises:
        ValueError: One has a value that the other lacks.
    """
    _check_names(found, wanted)
    errors = []
    for group, values in wanted.items():
        difference = scale = 0.0
        for name, value in values.items():
            value = value.double()
            other = found[group][name].double().reshape(value.shape)
            difference += (other - value).square().sum().item()
            scale += value.square().sum().item()
        errors.append(math.sqrt(difference / scale) if scale else difference)
    return max(errors)


def count_different(found: Results, wanted: Results) -> int:
    """Count the entries that are not equal.

    Raises:
        ValueError: One has a value that the other lacks.
    """
    _check_names(found, wanted)
    return sum(
        int((found[group][name] != value).sum())
        for group, values in wanted.items()
        for name, value in values.items()
    )


def _check_names(found: Results, wanted: Results) -> None:
    for group in found.keys() | wanted.keys():
        pair = found.get(group, {}), wanted.get(group, {})
        if pair[0].keys() != pair[1].keys():
            names = sorted(pair[0].keys() ^ pair[1].keys())
            raise ValueError(
                f'the sides differ in {group}: only one of them has {names}; '
                "complete the peer's rename"
            )


def gradients(
    outputs: Tensor,
    leaves: Mapping[str, Tensor],
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    """Differentiate ``outputs``, weighted where they are no scalar.

    Returns:
        The gradients of the leaves that took part, which keep none.
    """
    outputs.backward(weights)
    found = {k: x.grad for k, x in leaves.items() if x.grad is not None}
    for leaf in leaves.values():
        leaf.grad = None
    return found


class Logits:
    """Keep what a classifier gave last.

    Args:
        classifier: The layer, ``conv_seg`` in most heads.
    """

    def __init__(self, classifier: nn.Module) -> None:
        self.value: Tensor | None = None
        classifier.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        self.value = output.detach()

    def take(self) -> dict[str, Tensor]:
        """Return them, and keep them no longer."""
        value, self.value = self.value, None
        return dict(logits=value)
