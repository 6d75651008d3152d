"""Do two models compute the same?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..models.backbones import as_maps


@dataclass(frozen=True)
class Peer:
    """A model of some library, ready to be run.

    Attributes:
        library: Its name.
        module: The model, in evaluation mode.
        run: From images ``(N, C, *S)`` to logits ``(N, K, *S)``, or to the
            maps of a backbone.
    """

    library: str
    module: nn.Module
    run: Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Comparison:
    """The receipt of a conversion, in numbers.

    Attributes:
        source: Library of the one model.
        target: Library of the other.
        input_shape: Of the random input, normal with mean 0 and std 1.
        max_difference: Largest |difference| over all outputs.
        scale: Standard deviation of the source's outputs.
        equal_labels: Share of the pixels whose largest class is the same;
            ``None`` for backbones.
    """

    source: str
    target: str
    input_shape: tuple[int, ...]
    max_difference: float
    scale: float
    equal_labels: float | None

    def summary(self) -> str:
        """One line for the log."""
        labels = ''
        if self.equal_labels is not None:
            labels = f', {self.equal_labels:.4%} of the labels are equal'
        return (
            f'{self.source} -> {self.target}, random input '
            f'{self.input_shape}: max |difference| '
            f'{self.max_difference:.3g} of std {self.scale:.3g}{labels}'
        )


@torch.no_grad()
def compare(
    source: Peer, target: Peer, input_shape: Sequence[int], *, seed: int = 0
) -> Comparison:
    """Run both models on the same random input.

    Args:
        source: The model that was converted.
        target: What became of it, read back from what was written.
        input_shape: ``(N, C, *S)``.
        seed: Of the input.

    Raises:
        ValueError: They give other numbers of outputs, or other shapes.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*input_shape, generator=generator)
    expected, found = as_maps(source.run(x)), as_maps(target.run(x))
    shapes = [[tuple(m.shape) for m in maps] for maps in (expected, found)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f'{source.library} gives {shapes[0]}, but {target.library} '
            f'{shapes[1]}'
        )
    pairs = list(zip(expected, found, strict=True))
    equal = None
    if len(pairs) == 1 and expected[0].shape[2:] == x.shape[2:]:
        labels = [_labels(m) for m in pairs[0]]
        equal = (labels[0] == labels[1]).double().mean().item()
    return Comparison(
        source.library,
        target.library,
        tuple(input_shape),
        max((a - b).abs().max().item() for a, b in pairs),
        torch.cat([m.flatten() for m in expected]).std().item(),
        equal,
    )


def _labels(logits: Tensor) -> Tensor:
    return logits > 0 if logits.shape[1] == 1 else logits.argmax(1)
