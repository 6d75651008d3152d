"""Read an experiment's config; refuse what would have no effect.

A config is mmengine's text config: a ``.py`` file with ``_base_``. What this
module adds to ``Config.fromfile`` is said by ``load_config``.
"""

import ast
import copy
import difflib
import inspect
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from .registry import DATASETS

# What the Runner and the tools read. Every other top-level key is a variable:
# it acts only through what the files compute from it.
RUNNER_KEYS = {
    *inspect.signature(Runner).parameters,
    *('activation_checkpointing', 'compile', 'custom_imports', 'device'),
    *('efficient_conv_bn_eval', 'find_unused_parameters', 'model_wrapper_cfg'),
    *('runner_type', 'strategy', 'sync_bn', 'tta'),
}

# Keys that an experiment joins into its model: where they end up.
AXIS_KEYS = {
    'backbone': 'model.backbone',
    'neck': 'model.neck',
    'decode_head': 'model.decode_head',
    'auxiliary_head': 'model.auxiliary_head',
    'normalization': 'model.data_preprocessor',
    'num_classes': 'model.num_classes',
    'in_channels': 'model.in_channels',
    'spatial_dims': 'model.spatial_dims',
}

# Keys of mmsegmentation 0.x (and mmseg 1.x's test-time augmentation), which
# nothing reads any more, and what took their place.
RETIRED_KEYS = {
    'checkpoint_config': 'default_hooks.checkpoint',
    'cudnn_benchmark': 'env_cfg.cudnn_benchmark',
    'data': 'train_dataloader, val_dataloader and test_dataloader',
    'dist_params': 'env_cfg.dist_cfg',
    'evaluation': 'val_evaluator and train_cfg.val_interval',
    'fp16': "optim_wrapper.type='upernet_ext.AmpOptimWrapper' (or --amp)",
    'gpu_ids': '--launcher, with one process a GPU',
    'log_config': 'default_hooks.logger and visualizer.vis_backends',
    'lr_config': 'param_scheduler',
    'momentum_config': 'param_scheduler',
    'mp_start_method': 'env_cfg.mp_cfg.mp_start_method',
    'opencv_num_threads': 'env_cfg.mp_cfg.opencv_num_threads',
    'optimizer': 'optim_wrapper.optimizer',
    'optimizer_config': 'optim_wrapper (clip_grad, accumulative_counts)',
    'resume_from': 'load_from with resume=True (or --resume PATH)',
    'runner': 'train_cfg',
    'seed': 'randomness.seed (or --seed)',
    'total_epochs': 'train_cfg.max_epochs',
    'total_iters': 'max_iters',
    'tta_model': 'tta',
    'tta_pipeline': 'tta',
    'workflow': 'train_cfg and val_cfg',
}

# Schedulers that are spread between begin and end, and those that lead from
# one constant rate to another.
_NEED_AN_END = ('PolyLR', 'CosineAnnealingLR', 'LinearLR')
_WARM_UPS = ('LinearLR', 'ConstantLR')
_DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# How alike two names must be to take one for a slip of the other: the first
# for a new variable, the second for a key that was meant to override.
_ALIKE_VARIABLE, _ALIKE_OVERRIDE = 0.85, 0.8


class ConfigError(ValueError):
    """A config that cannot mean what it says."""


def config_folder() -> Path:
    """Return the folder of the experiments.

    Inside the installed package, or, in a checkout, beside it.
    """
    package = Path(__file__).resolve().parent
    installed = package / 'configs'
    return installed if installed.is_dir() else package.parent / 'configs'


def load_config(
    path: str | Path, *, overrides: Mapping[str, Any] | None = None
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

    Returns:
        The config, for ``Runner.from_cfg``. Its ``filename`` is the file.

    Raises:
        ConfigError: The file is missing or cannot be run; a key is retired
            or misspelt; an axis key (``backbone``, ...) is set after it was
            joined into the model; a variable that changes nothing is
            overridden; a schedule that does not end with the training; or
            ``num_classes`` differs from a dataset's classes.
    """
    path = _find(path)
    sources = _read_sources(path)
    for source in sources.values():
        _check_names(source, sources)
    overrides = overrides or {}
    cfg = _carry(path, sources, overrides)
    _merge(cfg, overrides)
    _check_schedule(cfg)
    _check_classes(cfg)
    return cfg


# --- files ------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
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


def _find(path: str | Path) -> Path:
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
        + _did_you_mean(path.stem, names, 0.6)
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


def _read_sources(path: Path) -> dict[Path, _Source]:
    """Read a file and all it inherits from, bases first."""
    tree = _parse(path)
    _check_imports(tree, path)
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
    sources: dict[Path, _Source] = {}
    base_paths = []
    for base in bases:
        base_path = _absolute(path.parent / base)
        if not base_path.is_file():
            raise ConfigError(
                f'{path}: its base {base!r} is not there ({base_path})'
                + _did_you_mean(
                    base_path.stem,
                    [f.stem for f in base_path.parent.glob('*.py')],
                    0.6,
                )
            )
        base_paths.append(base_path)
        sources |= _read_sources(base_path)
    assigned, used = _names(tree)
    sources[path] = _Source(
        path=path,
        tree=tree,
        bases=tuple(base_paths),
        ancestors=frozenset(sources),
        assigned=frozenset(assigned),
        used=frozenset(used),
    )
    return sources


def _execute(
    path: Path,
    sources: Mapping[Path, _Source],
    values: Mapping[Path, Mapping[str, Any]],
) -> Config:
    """Run a config; ``values[file][name]`` stands in for what a file sets."""
    try:
        if not any(values.values()):
            return Config.fromfile(path)
        with tempfile.TemporaryDirectory() as folder:
            copies = {
                p: Path(folder) / str(i) / p.name
                for i, p in enumerate(sources)
                if p == path or p in sources[path].ancestors
            }
            for original, target in copies.items():
                target.parent.mkdir()
                text = _rewrite(
                    sources[original],
                    {
                        **values.get(original, {}),
                        '_base_': [
                            str(copies[b]) for b in sources[original].bases
                        ],
                    },
                )
                target.write_text(text, encoding='utf-8')
            cfg = Config.fromfile(copies[path])
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


def _rewrite(source: _Source, values: Mapping[str, Any]) -> str:
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


# --- names ------------------------------------------------------------------


def _did_you_mean(name: str, known: Sequence[str], cutoff: float) -> str:
    close = difflib.get_close_matches(name, known, 1, cutoff)
    return f'; did you mean {close[0]!r}?' if close else ''


def _check_retired(key: str, where: str) -> None:
    if key in RETIRED_KEYS:
        raise ConfigError(
            f'{where}: the key {key!r} is retired, nothing reads it; use '
            f'{RETIRED_KEYS[key]}'
        )


def _check_names(source: _Source, sources: Mapping[Path, _Source]) -> None:
    """Refuse names that a file sets for nobody."""
    inherited = {n for p in source.ancestors for n in sources[p].assigned}
    for name in sorted(source.assigned):
        _check_retired(name, str(source.path))
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
            hint = _did_you_mean(
                name,
                sorted({*RUNNER_KEYS, *AXIS_KEYS, *inherited}),
                _ALIKE_VARIABLE,
            )
            if hint and not _read_by_a_child(name, source, sources):
                raise ConfigError(
                    f'{source.path}: nothing reads the key {name!r}{hint}'
                )


def _read_by_a_child(
    name: str, source: _Source, sources: Mapping[Path, _Source]
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


# --- overrides --------------------------------------------------------------


def _plain(value: Any) -> Any:
    """Return builtin containers in place of mmengine's."""
    return Config(dict(value=value)).to_dict()['value']


def _acting(cfg: Config) -> dict:
    """Return what the Runner and the tools read."""
    return {k: v for k, v in cfg.to_dict().items() if k in RUNNER_KEYS}


def _carry(
    path: Path, sources: Mapping[Path, _Source], overrides: Mapping[str, Any]
) -> Config:
    """Run a config with the variables that were set again, file by file.

    A child's value goes to its ancestors, an override's to all files.
    """
    values: dict[Path, dict[str, Any]] = {p: {} for p in sources}

    def carry(
        files: Sequence[Path], name: str, value: Any, where: str
    ) -> None:
        nonlocal cfg
        setters = [p for p in files if name in sources[p].assigned]
        before, old = cfg, None
        if setters:
            old = _plain(_execute(setters[-1], sources, values)[name])
        for p in setters:
            values[p][name] = value
        cfg = _execute(path, sources, values)
        if value != old and _acting(cfg) == _acting(before):
            places = [p for p, v in _leaves(_acting(cfg)) if v == old]
            raise ConfigError(
                f'{where}: {name}={value!r} changes nothing, for nothing is '
                f'computed from {name!r}'
                + (f'; set {" and ".join(places)}' if places else '')
            )

    cfg = _execute(path, sources, values)
    for source in sources.values():
        inherited = {n for p in source.ancestors for n in sources[p].assigned}
        again = (source.assigned & inherited) - source.used
        for name in sorted(again - RUNNER_KEYS - set(AXIS_KEYS)):
            value = _plain(_execute(source.path, sources, values)[name])
            files = [p for p in sources if p in source.ancestors]
            carry(files, name, value, str(source.path))
    _check_overrides(cfg, overrides)
    for name in sorted({key.split('.')[0] for key in overrides}):
        if name not in RUNNER_KEYS:
            merged = copy.deepcopy(cfg)
            _merge(merged, overrides)
            carry(list(sources), name, _plain(merged[name]), 'override')
    return cfg


def _merge(cfg: Config, overrides: Mapping[str, Any]) -> None:
    # One by one: of 'a.b' and 'a' together, mmengine would forget the first.
    for key, value in overrides.items():
        cfg.merge_from_dict({key: copy.deepcopy(value)})


def _leaves(tree: Any, path: str = '') -> Iterator[tuple[str, Any]]:
    """Yield every path inside a config, and what is there."""
    if isinstance(tree, Mapping):
        items = list(tree.items())
    elif isinstance(tree, list | tuple):
        items = list(enumerate(tree))
    else:
        items = []
    yield path, tree
    for key, value in items:
        yield from _leaves(value, f'{path}.{key}'.lstrip('.'))


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
        _check_retired(name, f'override {key!r}')
        if name in AXIS_KEYS and name in cfg:
            target = '.'.join((AXIS_KEYS[name], *path[1:]))
            raise ConfigError(
                f'override {key!r}: {name} is joined into the model when the '
                f'files are read, so it would change nothing; set {target}'
            )
        if name not in cfg and name not in RUNNER_KEYS:
            raise ConfigError(
                f'override {key!r}: the config has no key {name!r}'
                + _did_you_mean(name, sorted({*cfg, *RUNNER_KEYS}), 0.6)
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
                hint = _did_you_mean(name, [*node], _ALIKE_OVERRIDE)
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


# --- what must agree --------------------------------------------------------


def _check_schedule(cfg: Config) -> None:
    """Refuse a learning-rate schedule that does not end with the training."""
    loop = cfg.get('train_cfg') or {}
    unit = 'epochs' if loop.get('max_epochs') else 'iters'
    total = loop.get(f'max_{unit}')
    schedulers = cfg.get('param_scheduler') or []
    if total is None or not schedulers:
        return
    ends = {}
    for path, scheduler in _leaves(_plain(schedulers), 'param_scheduler'):
        if not isinstance(scheduler, Mapping) or 'type' not in scheduler:
            continue
        kind = scheduler['type']
        begin, end = scheduler.get('begin', 0), scheduler.get('end')
        by_epoch = scheduler.get('by_epoch', True)
        if by_epoch and unit == 'iters':
            raise ConfigError(
                f'{path} ({kind}) counts epochs, but train_cfg counts '
                f'iterations (max_iters={total}); set by_epoch=False in it'
            )
        if not by_epoch and unit == 'epochs':
            return  # the length of an epoch is the data's to tell
        if (
            end is None
            and kind == 'CosineAnnealingLR'
            and 'T_max' in scheduler
        ):
            end = begin + scheduler['T_max']
        ends[path] = (kind, begin, end)
    advice = (
        f'; set both numbers, or the variable max_{unit} of the schedule, '
        f'which moves them together (--cfg-options max_{unit}=N)'
    )
    for path, (kind, begin, end) in ends.items():
        if end is None and kind in _NEED_AN_END:
            raise ConfigError(
                f'{path} ({kind}) has no end, so it would hardly move; set '
                f'end={total}'
            )
        if end is not None and end <= begin:
            raise ConfigError(
                f'{path} ({kind}) is empty: it begins at {begin} and ends at '
                f'{end}; leave it out, or train for longer'
            )
        if end is not None and end > total:
            raise ConfigError(
                f'{path} ({kind}) ends at {end}, after the training '
                f'(train_cfg.max_{unit}={total})' + advice
            )
    finite = {p: (k, e) for p, (k, _, e) in ends.items() if e is not None}
    if len(finite) < len(ends) or all(
        kind in _WARM_UPS for kind, _ in finite.values()
    ):
        return  # a constant rate to the end, perhaps after a warm-up
    path, (kind, end) = max(finite.items(), key=lambda item: item[1][1])
    if end < total:
        raise ConfigError(
            f'{path} ({kind}) ends at {end}, before the training '
            f'(train_cfg.max_{unit}={total})' + advice
        )


def _check_classes(cfg: Config) -> None:
    """Refuse a model that has more or fewer classes than its data."""
    model = cfg.get('model') or {}
    head = model.get('decode_head') or {}
    num_classes = model.get('num_classes') or (
        head.get('num_classes') if isinstance(head, Mapping) else None
    )
    if num_classes is None:
        return
    scope = cfg.get('default_scope', 'mmengine')
    for loader in _DATALOADERS:
        dataset = (cfg.get(loader) or {}).get('dataset') or {}
        for path, classes in _dataset_classes(
            dataset, f'{loader}.dataset', scope
        ):
            if len(classes) != num_classes:
                names = ', '.join(map(str, classes[:4]))
                more = ', ...' if len(classes) > 4 else ''
                one = (
                    ' (num_classes=1 is one foreground class, and has one '
                    'name)'
                    if num_classes == 1
                    else ''
                )
                raise ConfigError(
                    f'model.num_classes={num_classes}{one}, but {path} has '
                    f'{len(classes)} classes: {names}{more}; set the classes '
                    'of the dataset, or model.num_classes'
                )


def _dataset_classes(
    dataset: Mapping, path: str, scope: str
) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the class names of a dataset config and of those it wraps."""
    if 'dataset' in dataset:
        yield from _dataset_classes(
            dataset['dataset'], f'{path}.dataset', scope
        )
    for i, inner in enumerate(dataset.get('datasets', ())):
        yield from _dataset_classes(inner, f'{path}.datasets.{i}', scope)
    if 'type' not in dataset or 'dataset' in dataset or 'datasets' in dataset:
        return
    metainfo = dataset.get('metainfo') or {}
    classes = dataset.get('classes') or metainfo.get('classes')
    if classes is None:
        with DATASETS.switch_scope_and_registry(scope) as registry:
            try:
                cls = registry.get(dataset['type'])
            except RuntimeError as error:
                if 'Failed to get' not in str(error):
                    raise
                return  # not registered: building it will say so
        classes = getattr(cls, 'METAINFO', {}).get('classes')
    if classes is not None:
        yield path, list(classes)
