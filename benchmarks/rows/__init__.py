"""The rows of the bench, by topic."""

import upernet_ext.import_noise  # noqa: F401  (before mmseg is)

from ..row import Row
from . import (
    backbones,
    convolutions,
    data,
    evaluation,
    heads,
    heads_3d,
    losses,
    models,
    prediction,
)

ROWS: tuple[Row, ...] = (
    *heads.ROWS,
    *convolutions.ROWS,
    *heads_3d.ROWS,
    *losses.ROWS,
    *prediction.ROWS,
    *evaluation.ROWS,
    *data.ROWS,
    *backbones.ROWS,
    *models.ROWS,
)


def find_row(name: str) -> Row:
    """Return the row of a name.

    Raises:
        ValueError: There is none.
    """
    for row in ROWS:
        if row.name == name:
            return row
    raise ValueError(f'no row {name!r}; there are {[r.name for r in ROWS]}')
