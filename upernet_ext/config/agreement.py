"""What must agree in a config: schedule and training, classes and data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmengine.config import Config

from ..registry import DATASETS
from .keys import ConfigError
from .variables import leaves, plain

# Schedulers that are spread between begin and end, and those that lead from
# one constant rate to another.
_NEED_AN_END = ('PolyLR', 'CosineAnnealingLR', 'LinearLR')
_WARM_UPS = ('LinearLR', 'ConstantLR')
_DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


@dataclass(frozen=True)
class _Span:
    """When a scheduler works: ``[begin, end)``; to the last for ``None``."""

    path: str
    kind: str
    begin: int
    end: int | None

    def __str__(self) -> str:
        return f'{self.path} ({self.kind})'


def check_schedule(cfg: Config) -> None:
    """Refuse a learning-rate schedule that does not end with the training."""
    loop = cfg.get('train_cfg') or {}
    unit = 'epochs' if loop.get('max_epochs') else 'iters'
    total = loop.get(f'max_{unit}')
    schedulers = [
        (path, scheduler)
        for path, scheduler in leaves(
            plain(cfg.get('param_scheduler') or []), 'param_scheduler'
        )
        if isinstance(scheduler, Mapping) and 'type' in scheduler
    ]
    if total is None or not schedulers:
        return
    if unit == 'iters':
        _check_unit(schedulers, total)
    elif not all(s.get('by_epoch', True) for _, s in schedulers):
        return  # the length of an epoch is the data's to tell
    spans = [_span(path, scheduler) for path, scheduler in schedulers]
    advice = (
        f'(train_cfg.max_{unit}={total}); set both numbers, or the variable '
        f'max_{unit} of the schedule, which moves them together '
        f'(--cfg-options max_{unit}=N)'
    )
    for span in spans:
        _check_span(span, total, advice)
    endless = any(span.end is None for span in spans)
    if endless or all(span.kind in _WARM_UPS for span in spans):
        return  # a constant rate to the end, perhaps after a warm-up
    last = max(spans, key=lambda span: span.end)
    if last.end < total:
        raise ConfigError(
            f'{last} ends at {last.end}, before the training {advice}'
        )


def _check_unit(schedulers: Sequence[tuple[str, Mapping]], total: int) -> None:
    for path, scheduler in schedulers:
        if scheduler.get('by_epoch', True):
            raise ConfigError(
                f'{path} ({scheduler["type"]}) counts epochs, but train_cfg '
                f'counts iterations (max_iters={total}); set by_epoch=False '
                'in it'
            )


def _span(path: str, scheduler: Mapping) -> _Span:
    kind = scheduler['type']
    begin, end = scheduler.get('begin', 0), scheduler.get('end')
    if end is None and kind == 'CosineAnnealingLR' and 'T_max' in scheduler:
        end = begin + scheduler['T_max']
    return _Span(path, kind, begin, end)


def _check_span(span: _Span, total: int, advice: str) -> None:
    if span.end is None:
        if span.kind in _NEED_AN_END:
            raise ConfigError(
                f'{span} has no end, so it would hardly move; set end={total}'
            )
    elif span.end <= span.begin:
        raise ConfigError(
            f'{span} is empty: it begins at {span.begin} and ends at '
            f'{span.end}; leave it out, or train for longer'
        )
    elif span.end > total:
        raise ConfigError(
            f'{span} ends at {span.end}, after the training {advice}'
        )


def check_classes(cfg: Config) -> None:
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
    # Of an nnU-Net dataset `dataset` is a number or a name.
    if isinstance(dataset.get('dataset'), Mapping):
        yield from _dataset_classes(
            dataset['dataset'], f'{path}.dataset', scope
        )
    for i, inner in enumerate(dataset.get('datasets', ())):
        yield from _dataset_classes(inner, f'{path}.datasets.{i}', scope)
    if 'type' not in dataset or 'datasets' in dataset:
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
