"""A row of the bench: one computation, done by us and by its peers.

Every side of a row is built by a function of a ``Case`` and gives a ``Call``
that computes the same thing with the same weights, on the same inputs. Our
side's weights are drawn from seed 0; a peer copies them where its function is
ours.
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

OURS = 'upernet_ext'
_CPU = torch.device('cpu')
# The gates of every row: of float64 results, relative; and how many times as
# large our float32 error may be as the peer's.
LARGEST_ERROR = 1e-12
# mmseg's losses add float32's epsilon, 1.2e-7, to the pixels they divide by.
MMSEG_LOSS_ERROR = 1e-11
LARGEST_NOISE = 2.0
# What a call computed: group ('loss', 'gradients', 'labels'), name, value.
Results = dict[str, dict[str, Tensor]]
Call = Callable[[], Results]


class MissingPeerError(Exception):
    """A peer is not installed; the message says how to install it."""


@dataclass(frozen=True)
class Case:
    """What a side is built for.

    Attributes:
        sizes: The numbers of the row, reduced or full.
        dtype: Of weights and inputs.
        device: Of the same.
        bf16: Whether the calls run under bfloat16 autocast.
    """

    sizes: Mapping[str, Any]
    dtype: torch.dtype = torch.float32
    device: torch.device = _CPU
    bf16: bool = False
    _draws: torch.Generator = field(
        default_factory=lambda: torch.Generator().manual_seed(0)
    )

    def __getitem__(self, name: str) -> Any:
        """Return one of the row's numbers."""
        return self.sizes[name]

    def normal(self, *shape: int, scale: float = 1.0) -> Tensor:
        """Draw ``shape``; every side draws the same numbers in its order."""
        values = torch.randn(shape, generator=self._draws) * scale
        return values.to(self.device, self.dtype)

    def labels(
        self, *shape: int, num_classes: int, ignored: bool = True
    ) -> Tensor:
        """Draw labels in patches of 8 pixels, some of them ignored (255)."""
        coarse = [*shape[:1], *(-(-s // 8) for s in shape[1:])]
        values = torch.randint(num_classes, coarse, generator=self._draws)
        if ignored:
            drawn = torch.rand(coarse, generator=self._draws)
            values[drawn < 0.05] = 255
        for axis in range(1, len(shape)):
            values = values.repeat_interleave(8, axis)
        window = tuple(slice(s) for s in shape)
        return values[window].contiguous().to(self.device)

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Put a module where the case wants it."""
        return module.to(self.device, self.dtype)


@dataclass(frozen=True)
class Goals:
    """Largest ratios ours / theirs that the project wants; ``None``: no goal.

    Attributes:
        time: Of process CPU time, or of the GPU's.
        memory: Of peak memory.
        saved: Of the bytes kept for the backward pass.
    """

    time: float | None = None
    memory: float | None = None
    saved: float | None = None


NO_GOALS = Goals()


@dataclass(frozen=True)
class Peer:
    """Another library's way to compute a row.

    Attributes:
        name: Of the library.
        build: Makes its call.
        goals: What we want to reach against it.
        same: Whether its function is ours, so that results are compared.
        rename: Turns names of its gradients into ours.
        note: What differs, where something does.
        largest_error: Of float64 results. Larger than ``LARGEST_ERROR`` for a
            peer that computes in float32 inside; it cannot judge float32.
    """

    name: str
    build: Callable[[Case], Call]
    goals: Goals = NO_GOALS
    same: bool = True
    rename: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    note: str = ''
    largest_error: float = LARGEST_ERROR


@dataclass(frozen=True)
class Row:
    """One computation, ours and the peers'.

    Attributes:
        name: For ``--only``.
        title: For the table.
        ours: Makes our call.
        peers: Whom we are measured against.
        reduced: Numbers for a minute on two cores.
        full: Numbers of the goal.
        gpu: Numbers on a GPU with ``--full``; by default ``full``.
        floating: Whether the results are floats that float64 can check.
        smooth: Whether its gradients are continuous. Behind a ReLU they are
            not: whether a value near 0 passes is luck in float32, so that
            only the outputs tell our noise from the peer's.
        torch_only: Whether memory and FLOPs are of torch and so counted.
    """

    name: str
    title: str
    ours: Callable[[Case], Call]
    peers: tuple[Peer, ...]
    reduced: Mapping[str, Any]
    full: Mapping[str, Any]
    gpu: Mapping[str, Any] | None = None
    floating: bool = True
    smooth: bool = True
    torch_only: bool = True

    def sizes(self, *, full: bool, device: torch.device) -> Mapping[str, Any]:
        """Choose the numbers of a run."""
        if not full:
            return self.reduced
        on_gpu = device.type == 'cuda' and self.gpu is not None
        return self.gpu if on_gpu else self.full

    def peer(self, name: str) -> Peer:
        """Return the peer of a name.

        Raises:
            ValueError: There is none.
        """
        for peer in self.peers:
            if peer.name == name:
                return peer
        names = [OURS, *(p.name for p in self.peers)]
        raise ValueError(
            f'row {self.name} has the sides {names}, not {name!r}'
        )

    def build(self, side: str, case: Case) -> Call:
        """Make the call of one side, from seed 0.

        Args:
            side: ``'upernet_ext'`` or a peer's name.
            case: A fresh one: its draws are used up.

        Raises:
            MissingPeerError: The peer is not installed.
        """
        builder = self.ours if side == OURS else self.peer(side).build
        torch.manual_seed(0)
        call = builder(case)

        def run() -> Results:
            context = (
                torch.autocast(case.device.type, torch.bfloat16)
                if case.bf16
                else nullcontext()
            )
            with context:
                return call()

        return run
