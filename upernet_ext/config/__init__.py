"""Read an experiment's config; refuse what would have no effect.

A config is mmengine's text config: a ``.py`` file with ``_base_``. What this
package adds to ``Config.fromfile`` is said by ``load_config``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .agreement import check_classes, check_schedule
from .keys import AXIS_KEYS, RETIRED_KEYS, RUNNER_KEYS, ConfigError
from .sources import config_folder, find, read_sources
from .variables import carry, check_names, merge

__all__ = [
    'AXIS_KEYS',
    'RETIRED_KEYS',
    'RUNNER_KEYS',
    'ConfigError',
    'config_folder',
    'load_config',
]


def load_config(
    path: str | Path,
    *,
    overrides: Mapping[str, Any] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> Config:
    """Read a config, apply overrides, and check that all of it acts.

    A *variable* is a top-level key that the Runner does not read (such as
    ``data_root``, ``crop_size``, ``classes``, ``max_iters``). It is carried
    into the files: an override of it, or a file that sets it again and does
    not use it itself, gives the value to the bases before they compute
    anything. So ``max_iters=20000`` moves the loop and the schedule, and
    ``data_root=...`` all datasets.

    Nothing is built and no data is read.

    Args:
        path: A config file, or the name of an experiment of
            ``config_folder()``, with or without ``.py``.
        overrides: ``{'model.backbone.drop_path_rate': 0.2}``, as
            ``--cfg-options`` gives them.
        variables: Values that take the place of what the bases set, such as
            ``{'num_classes': 3}``: what is known of the data when a run
            starts. A file that sets a base's name again wins; names that no
            file sets are left out.

    Returns:
        The config, for ``Runner.from_cfg``. Its ``filename`` is the file.

    Raises:
        ConfigError: The file is missing or cannot be run; a key is retired
            or misspelt; an axis key (``backbone``, ...) is set after it was
            joined into the model; a variable that changes nothing is
            overridden; a schedule that does not end with the training; or
            ``num_classes`` differs from a dataset's classes.
    """
    path = find(path)
    sources = read_sources(path)
    for source in sources.values():
        check_names(source, sources)
    overrides = overrides or {}
    cfg = carry(path, sources, overrides, variables or {})
    merge(cfg, overrides)
    check_schedule(cfg)
    check_classes(cfg)
    return cfg
