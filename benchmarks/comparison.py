"""What is found of us and one peer, and whether it is good enough."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from .measure import median, ratio
from .row import LARGEST_ERROR, LARGEST_NOISE, Goals

# What is measured of each side, and how the table calls it.
QUANTITIES = dict(
    time='time', memory='peak memory', saved='saved bytes', flops='FLOPs'
)


@dataclass
class Side:
    """What is measured of one side.

    Attributes:
        seconds: Of every round.
        memory: Peak, in bytes.
        saved: Bytes kept for the backward pass.
        flops: Floating point operations.
        images_per_second: By the median.
    """

    seconds: list[float] = field(default_factory=list)
    memory: int | None = None
    saved: int | None = None
    flops: int | None = None
    images_per_second: float | None = None

    @property
    def time(self) -> float | None:
        """Median of the rounds, in s."""
        return median(self.seconds) if self.seconds else None


@dataclass
class Comparison:
    """We and one peer on one row.

    Attributes:
        row: Name of the row.
        title: Of the row.
        peer: Name of the peer.
        sizes: The row's numbers.
        ours: What is measured of us.
        theirs: And of the peer.
        goals: Largest ratios that we want.
        float64_error: Relative, of float64 results; ``None`` where the
            functions differ or the results are no floats.
        noise: Our float32 error over the peer's, both against its float64
            result.
        different: Labels or counts that are not equal; ``None`` as above.
        note: What the peer does differently, or why it is missing.
        largest_error: What ``float64_error`` may be.
    """

    row: str
    title: str
    peer: str
    sizes: Mapping[str, Any]
    ours: Side
    theirs: Side
    goals: Goals = field(default_factory=Goals)
    float64_error: float | None = None
    noise: float | None = None
    different: int | None = None
    note: str = ''
    largest_error: float = LARGEST_ERROR

    @property
    def missing(self) -> bool:
        """Whether the peer is not installed."""
        return not self.theirs.seconds

    def ratio(self, quantity: str) -> float | None:
        """Return ours / theirs of one of ``QUANTITIES``."""
        return ratio(
            getattr(self.ours, quantity), getattr(self.theirs, quantity)
        )

    @property
    def faults(self) -> list[str]:
        """Name the goals and gates that are not met."""
        found = []
        for name, goal in asdict(self.goals).items():
            value = self.ratio(name)
            if None not in (goal, value) and value > goal:
                found.append(QUANTITIES[name])
        if (self.float64_error or 0) > self.largest_error:
            found.append('float64 error')
        if (self.noise or 0) > LARGEST_NOISE:
            found.append('float32 noise')
        if self.different:
            found.append('labels')
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for JSON, with ratios and faults."""
        ratios = {name: self.ratio(name) for name in QUANTITIES}
        return dict(asdict(self), ratios=ratios, faults=self.faults)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` wrote."""
        kept = {k: v for k, v in values.items() if k in cls.__annotations__}
        kept |= dict(
            ours=Side(**values['ours']),
            theirs=Side(**values['theirs']),
            goals=Goals(**values['goals']),
        )
        return cls(**kept)
