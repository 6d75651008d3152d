"""Config files: what they say, seen without running them; and running them."""

import ast
import copy
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from .keys import ConfigError, did_you_mean


def config_folder() -> Path:
    """Return the folder of the experiments.

    Inside the installed package, or, in a checkout, beside it.
    """
    package = Path(__file__).resolve().parents[1]
    installed = package / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'


@dataclass(frozen=True)
class Source:
    """What can be seen of a config file without running it.

    Attributes:
        path: The file.
        tree: Its syntax tree.
        bases: The files of its ``_base_``.
        ancestors: All files that it inherits from, at any distance.
        assigned: Names that it sets.
        used: Names that it reads (``_base_.x`` reads the base's x, not x).
    """

    path: Path
    tree: ast.Module
    bases: tuple[Path, ...]
    ancestors: frozenset[Path]
    assigned: frozenset[str]
    used: frozenset[str]


def _absolute(path: Path) -> Path:
    # Not resolve(): like mmengine, stay in the folder of a linked config.
    return Path(os.path.abspath(path))


def find(path: str | Path) -> Path:
    """Return the file of a path, or of an experiment's name."""
    path = Path(path)
    folder = config_folder()
    name = path.name if path.suffix == '.py' else f'{path.name}.py'
    for candidate in (path, path.with_name(name), folder / name):
        if candidate.is_file():
            if candidate.suffix != '.py':
                raise ConfigError(f'{path} is not a config: expected a .py')
            return _absolute(candidate)
    names = sorted(f.stem for f in folder.glob('*.py'))
    raise ConfigError(
        f'there is no config {str(path)!r}, here or in {folder}'
        + did_you_mean(path.stem, names, 0.6)
    )


def _parse(path: Path) -> ast.Module:
    text = path.read_text(encoding='utf-8')
    try:
        return ast.parse(text, filename=str(path))
    except SyntaxError as error:
        raise ConfigError(
            f'{path}, line {error.lineno}: {error.msg}'
        ) from error


def _check_imports(tree: ast.Module, path: Path) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = ['.' * node.level + (node.module or '')]
        else:
            continue
        for module in modules:
            if module.split('.')[0] not in sys.stdlib_module_names:
                raise ConfigError(
                    f'{path} imports {module!r}; a config inherits by '
                    '_base_ = [...] and imports the standard library only'
                )


def _targets(node: ast.stmt) -> list[ast.expr]:
    """Return what a statement assigns to."""
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Return the names a file sets at its top level, and those it reads."""
    used = {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    assigned = {
        target.id
        for node in tree.body
        for target in _targets(node)
        if isinstance(target, ast.Name)
    }
    return assigned - {'_base_'}, used


def _bases(tree: ast.Module, path: Path) -> tuple[Path, ...]:
    """Return the files of ``_base_``."""
    bases: list[str] = []
    for node in tree.body:
        if any(getattr(t, 'id', None) == '_base_' for t in _targets(node)):
            try:
                value = ast.literal_eval(node.value)
            except ValueError as error:
                raise ConfigError(
                    f'{path}, line {node.lineno}: _base_ must be a path or a '
                    'list of paths, written out'
                ) from error
            bases = [value] if isinstance(value, str) else list(value)
    paths = tuple(_absolute(path.parent / base) for base in bases)
    for base, base_path in zip(bases, paths, strict=True):
        if not base_path.is_file():
            known = [f.stem for f in base_path.parent.glob('*.py')]
            raise ConfigError(
                f'{path}: its base {base!r} is not there ({base_path})'
                + did_you_mean(base_path.stem, known, 0.6)
            )
    return paths


def read_sources(path: Path) -> dict[Path, Source]:
    """Read a file and all it inherits from, bases first."""
    tree = _parse(path)
    _check_imports(tree, path)
    bases = _bases(tree, path)
    sources: dict[Path, Source] = {}
    for base in bases:
        sources |= read_sources(base)
    assigned, used = _names(tree)
    sources[path] = Source(
        path=path,
        tree=tree,
        bases=bases,
        ancestors=frozenset(sources),
        assigned=frozenset(assigned),
        used=frozenset(used),
    )
    return sources


def execute(
    path: Path,
    sources: Mapping[Path, Source],
    values: Mapping[Path, Mapping[str, Any]],
) -> Config:
    """Run a config; ``values[file][name]`` stands in for what a file sets."""
    try:
        if not any(values.values()):
            return Config.fromfile(path)
        with tempfile.TemporaryDirectory() as folder:
            cfg = Config.fromfile(
                _write_copies(path, sources, values, Path(folder))
            )
    except Exception as error:
        hint = ''
        if 'Duplicate key' in str(error):
            hint = '; two files of one _base_ may not set the same key'
        elif isinstance(error, AttributeError):
            hint = '; does a file of its _base_ set it?'
        raise ConfigError(
            f'{path} cannot be read: {type(error).__name__}: {error}{hint}'
        ) from error
    return Config(
        cfg.to_dict(),
        cfg_text=path.read_text(encoding='utf-8'),
        filename=str(path),
        env_variables=cfg.env_variables,
    )


def _write_copies(
    path: Path,
    sources: Mapping[Path, Source],
    values: Mapping[Path, Mapping[str, Any]],
    folder: Path,
) -> Path:
    """Write a config and its bases with other values; return its copy."""
    copies = {
        p: folder / str(i) / p.name
        for i, p in enumerate(sources)
        if p == path or p in sources[path].ancestors
    }
    for original, target in copies.items():
        bases = [str(copies[base]) for base in sources[original].bases]
        text = _rewrite(
            sources[original],
            {**values.get(original, {}), '_base_': bases},
        )
        target.parent.mkdir()
        target.write_text(text, encoding='utf-8')
    return copies[path]


def _rewrite(source: Source, values: Mapping[str, Any]) -> str:
    """Write a file's code with other values for some of its names."""
    tree = copy.deepcopy(source.tree)
    for node in tree.body:
        for target in _targets(node):
            if isinstance(target, ast.Name) and target.id in values:
                code = repr(values[target.id])
                node.value = ast.parse(code, mode='eval').body
    text = ast.unparse(tree)
    # mmengine would put the copy's folder here.
    folder = source.path.parent.as_posix()
    return re.sub(r'\{\{\s*fileDirname\s*\}\}', folder, text)
