"""How a library names the parameters of a network."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

StateDict = Mapping[str, Tensor]


@dataclass(frozen=True)
class KeyStyle:
    """One library's names of one network family, and the way to ours.

    Attributes:
        name: Such as ``'transformers.dinov2'``.
        recognises: Tells from the names in a file whether it is written so.
        from_style: Its state dict to ours.
        to_style: Ours to its; ``None`` where there is no way back.
    """

    name: str
    recognises: Callable[[Collection[str]], bool]
    from_style: Callable[[StateDict], dict[str, Tensor]]
    to_style: Callable[[StateDict], dict[str, Tensor]] | None = None
