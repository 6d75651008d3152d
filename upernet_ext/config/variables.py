"""Names in config files and overrides: refused where they change nothing."""

import ast
import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .keys import (
    AXIS_KEYS,
    RUNNER_KEYS,
    ConfigError,
    check_retired,
    did_you_mean,
)
from .sources import Source, execute

# How alike two names must be to take one for a slip of the other: the first
# for a new variable, the second for a key that was meant to override.
_ALIKE_VARIABLE, _ALIKE_OVERRIDE = 0.85, 0.8


def check_names(source: Source, sources: Mapping[Path, Source]) -> None:
    """Refuse names that a file sets for nobody."""
    inherited = {n for p in source.ancestors for n in sources[p].assigned}
    for name in sorted(source.assigned):
        check_retired(name, str(source.path))
        if name in source.used or name in RUNNER_KEYS:
            continue
        if name in AXIS_KEYS:
            joined_here = 'model' in source.assigned and name in inherited
            if joined_here or 'model' in inherited:
                keys = AXIS_KEYS[name].split('.')[1:]
                raise ConfigError(
                    f'{source.path}: {name!r} is joined into the model '
                    'before this file sets it, so it would change nothing; '
                    f'set {AXIS_KEYS[name]}: '
                    f'model = dict({keys[0]}=...)'
                )
        elif name not in inherited:
            hint = did_you_mean(
                name,
                sorted({*RUNNER_KEYS, *AXIS_KEYS, *inherited}),
                _ALIKE_VARIABLE,
            )
            if hint and not _read_by_a_child(name, source, sources):
                raise ConfigError(
                    f'{source.path}: nothing reads the key {name!r}{hint}'
                )


def _read_by_a_child(
    name: str, source: Source, sources: Mapping[Path, Source]
) -> bool:
    """Tell whether a file that inherits from ``source`` reads ``name``."""
    return any(
        source.path in child.ancestors
        and any(
            isinstance(node, ast.Attribute)
            and node.attr == name
            and isinstance(node.value, ast.Name)
            and node.value.id == '_base_'
            for node in ast.walk(child.tree)
        )
        for child in sources.values()
    )


def plain(value: Any) -> Any:
    """Return builtin containers in place of mmengine's."""
    return Config(dict(value=value)).to_dict()['value']


def _acting(cfg: Config) -> dict:
    """Return what the Runner and the tools read."""
    return {k: v for k, v in cfg.to_dict().items() if k in RUNNER_KEYS}


def carry(
    path: Path,
    sources: Mapping[Path, Source],
    overrides: Mapping[str, Any],
    variables: Mapping[str, Any],
) -> Config:
    """Run a config with the variables that were set again, file by file.

    One of ``variables`` takes the place of the first that a file sets, a
    child's value goes to its ancestors, an override's to all files.
    """
    values: dict[Path, dict[str, Any]] = {p: {} for p in sources}

    def set_again(
        files: Sequence[Path], name: str, value: Any, where: str
    ) -> None:
        nonlocal cfg
        setters = [p for p in files if name in sources[p].assigned]
        before, old = cfg, None
        if setters:
            old = plain(execute(setters[-1], sources, values)[name])
        for p in setters:
            values[p][name] = value
        cfg = execute(path, sources, values)
        if value != old and _acting(cfg) == _acting(before):
            places = [p for p, v in leaves(_acting(cfg)) if v == old]
            raise ConfigError(
                f'{where}: {name}={value!r} changes nothing, for nothing is '
                f'computed from {name!r}'
                + (f'; set {" and ".join(places)}' if places else '')
            )

    for file, source in sources.items():
        inherited = {n for p in source.ancestors for n in sources[p].assigned}
        for name in (source.assigned - inherited) & set(variables):
            values[file][name] = variables[name]
    cfg = execute(path, sources, values)
    for source in sources.values():
        inherited = {n for p in source.ancestors for n in sources[p].assigned}
        again = (source.assigned & inherited) - source.used
        for name in sorted(again - RUNNER_KEYS - set(AXIS_KEYS)):
            value = plain(execute(source.path, sources, values)[name])
            files = [p for p in sources if p in source.ancestors]
            set_again(files, name, value, str(source.path))
    _check_overrides(cfg, overrides)
    for name in sorted({key.split('.')[0] for key in overrides}):
        if name not in RUNNER_KEYS:
            merged = copy.deepcopy(cfg)
            merge(merged, overrides)
            set_again(list(sources), name, plain(merged[name]), 'override')
    return cfg


def merge(cfg: Config, overrides: Mapping[str, Any]) -> None:
    """Set keys of a config."""
    # One by one: of 'a.b' and 'a' together, mmengine would forget the first.
    for key, value in overrides.items():
        cfg.merge_from_dict({key: copy.deepcopy(value)})


def leaves(tree: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Yield every path inside a config, and what is there."""
    if isinstance(tree, Mapping):
        items = list(tree.items())
    elif isinstance(tree, list | tuple):
        items = list(enumerate(tree))
    else:
        items = []
    yield path, tree
    for key, value in items:
        yield from leaves(value, f'{path}.{key}'.lstrip('.'))


def _override_paths(
    overrides: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    for key, value in overrides.items():
        path = (*above, *str(key).split('.'))
        if isinstance(value, Mapping) and value and '_delete_' not in value:
            yield from _override_paths(value, path)
        else:
            yield path


def _check_overrides(cfg: Config, overrides: Mapping[str, Any]) -> None:
    for path in _override_paths(overrides):
        name, key = path[0], '.'.join(path)
        check_retired(name, f'override {key!r}')
        if name in AXIS_KEYS and name in cfg:
            target = '.'.join((AXIS_KEYS[name], *path[1:]))
            raise ConfigError(
                f'override {key!r}: {name} is joined into the model when the '
                f'files are read, so it would change nothing; set {target}'
            )
        if name not in cfg and name not in RUNNER_KEYS:
            raise ConfigError(
                f'override {key!r}: the config has no key {name!r}'
                + did_you_mean(name, sorted({*cfg, *RUNNER_KEYS}), 0.6)
            )
        _check_override_path(cfg, path)


def _check_override_path(cfg: Config, path: Sequence[str]) -> None:
    node: Any = cfg
    for i, name in enumerate(path):
        where = f'override {".".join(path)!r}'
        above = f'{".".join(path[:i])} is' if i else 'the config is'
        if isinstance(node, list):
            if not name.isdigit() or int(name) >= len(node):
                raise ConfigError(
                    f'{where}: {above} a list of {len(node)}, expected an '
                    f'index below that, got {name!r}'
                )
            node = node[int(name)]
        elif isinstance(node, Config | Mapping):
            if name not in node:
                # A new key: what is built from the dict has the last word.
                hint = did_you_mean(name, [*node], _ALIKE_OVERRIDE)
                if i and hint:
                    raise ConfigError(
                        f'{where}: {above} a dict without {name!r}{hint}'
                    )
                return
            node = node[name]
        else:
            raise ConfigError(
                f'{where}: {above} {node!r}, which has no key {name!r}; set '
                'it whole'
            )
