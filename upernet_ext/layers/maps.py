"""What a network returns, as maps."""

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor


def as_maps(
    outputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor],
    source: str = 'the backbone',
) -> list[Tensor]:
    """List what a backbone returns: a map, several, or maps by name.

    Args:
        outputs: What it returned.
        source: Who returned it, for the message.

    Raises:
        ValueError: Something in it is no tensor.
    """
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        outputs = outputs.values()
    if not isinstance(outputs, Iterable):
        outputs = [outputs]
    maps = list(outputs)
    wrong = [type(m).__name__ for m in maps if not isinstance(m, Tensor)]
    if wrong or not maps:
        raise ValueError(
            f'{source} returns {wrong or "nothing"} where feature maps are '
            'expected: return a tensor (N, C, *S), or a tuple, list or dict '
            'of them, finest first'
        )
    return maps


def map_of_tokens(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """Arrange tokens ``(N, L, C)`` as a map ``(N, C, *grid)``.

    On a CPU in the plain order: there oneDNN's 3x3 convolutions of a map
    whose channels are last take 1.3 times as long, and err four times as much.
    """
    x = tokens.transpose(1, 2).unflatten(2, grid)
    return x.contiguous() if x.device.type == 'cpu' else x
