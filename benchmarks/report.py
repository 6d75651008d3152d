"""A Markdown table and a plot of comparisons."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from .comparison import QUANTITIES, Comparison

_HEADER = (
    *('row', 'against', *QUANTITIES.values()),
    *('error', 'float32 noise', 'short of'),
)


def table(comparisons: Sequence[Comparison]) -> str:
    """Write a Markdown table, one line a peer."""
    lines = [_line(_HEADER), _line(['---'] * len(_HEADER))]
    for c in comparisons:
        if c.missing:
            cells = ['-'] * (len(_HEADER) - 3) + [c.note]
        else:
            cells = [_ratio(c, quantity) for quantity in QUANTITIES]
            cells += [_error(c), _number(c.noise, '.2f')]
            cells += [', '.join(c.faults) or 'nothing']
        lines.append(_line([c.title, c.peer, *cells]))
    return '\n'.join(lines) + '\n'


def notes(comparisons: Sequence[Comparison]) -> str:
    """List the sizes of every row, and what its peers do differently."""
    lines = []
    for c in comparisons:
        sizes = ', '.join(
            f'{name} {value}' for name, value in c.sizes.items() if value != {}
        )
        note = f' ({c.note})' if c.note and not c.missing else ''
        lines.append(f'- `{c.row}` against {c.peer}{note}: {sizes}')
    return '\n'.join(lines) + '\n'


def document(
    comparisons: Sequence[Comparison], *, command: str, hardware: str
) -> str:
    """Write the whole Markdown file.

    Args:
        comparisons: In the table's order.
        command: That made them.
        hardware: What it ran on.
    """
    return (
        '# The bench\n\n'
        f'`{command}` on {hardware}.\n\n'
        'Ratios are ours / theirs: below 1 we need less; behind it stands '
        'the goal. How they are measured: [README.md](README.md).\n\n'
        f'{table(comparisons)}\nSizes:\n\n{notes(comparisons)}'
    )


def plot(comparisons: Sequence[Comparison], path: Path) -> None:
    """Draw time and peak memory as bars, and the goals as ticks."""
    import matplotlib as mpl

    mpl.use('Agg')
    from matplotlib import pyplot

    drawn = [c for c in comparisons if not c.missing][::-1]
    figure, axes = pyplot.subplots(
        figsize=(9, 1.5 + 0.45 * len(drawn)), layout='constrained'
    )
    places = range(len(drawn))
    for quantity, colour, offset in (
        ('time', '#2b6cb0', 0.2),
        ('memory', '#dd8452', -0.2),
    ):
        axes.barh(
            [i + offset for i in places],
            [c.ratio(quantity) or 0 for c in drawn],
            0.36,
            color=colour,
            label=QUANTITIES[quantity],
        )
        goals = [getattr(c.goals, quantity) for c in drawn]
        known = [i for i in places if goals[i] is not None]
        axes.scatter(
            [goals[i] for i in known],
            [i + offset for i in known],
            marker='|',
            s=130,
            color='black',
            zorder=2,
        )
    axes.axvline(1, color='grey', linewidth=1)
    axes.set_yticks(range(len(drawn)), [f'{c.row} / {c.peer}' for c in drawn])
    axes.set_xlabel('ours / theirs (a tick is the goal)')
    axes.legend(loc='lower right')
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _line(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _number(value: float | None, style: str) -> str:
    return '-' if value is None else format(value, style)


def _ratio(comparison: Comparison, quantity: str) -> str:
    value = comparison.ratio(quantity)
    goal = asdict(comparison.goals).get(quantity)
    text = _number(value, '.3g' if value and value < 0.1 else '.2f')
    return text if goal is None else f'{text} (≤ {goal:g})'


def _error(comparison: Comparison) -> str:
    if comparison.different is not None:
        return f'{comparison.different} differ'
    return _number(comparison.float64_error, '.0e')
