"""Use a trained model in five lines.

>>> from upernet_ext.apis import init_model, predict
>>> model = init_model('work_dirs/upernet_vit-l_ade20k/iter_160000.pth')
>>> sample = predict(model, 'street.jpg')
>>> labels = sample.pred_sem_seg.data[0]  # (H, W), class indices
>>> names = [model.dataset_meta['classes'][k] for k in labels.unique()]
"""

import copy
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from mmseg.structures import SegDataSample
from rich.progress import track
from torch import nn

from ..config import ConfigError, load_config
from ..datasets.palette import generate_palette
from ..datasets.transforms.reading import IMAGE_SUFFIXES, read_image
from ..engine.checkpoint_config import checkpoint_config
from ..interop import load_segmentor, read_checkpoint
from ..models.segmentors.ensemble import Ensemble
from ..models.segmentors.saved_model import check_types
from ..models.tuning.partial import complete_weights
from ..registry import DATASETS, MODELS, TRANSFORMS
from ..visualization import (
    draw_overlay,
    save_label_maps,
    save_picture,
    to_label_picture,
    to_picture,
)
from .inputs import (
    Image,
    batches,
    dataset_config,
    find_files,
    prepare,
    scope,
    takes_volumes,
)
from .volumes import predict_cases


def init_model(
    source: str | os.PathLike | Config | Sequence[str | os.PathLike],
    checkpoint: str | os.PathLike | None = None,
    *,
    device: str | torch.device | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a trained model, ready to predict.

    Args:
        source: A checkpoint that this package (or mmseg) wrote: its config
            and class names travel in it. Or a config, with ``checkpoint``.
            Or several checkpoints, such as the folds of a dataset: their
            logits are averaged, and all are in memory together.
        checkpoint: Path or https URL of the weights of a config.
        device: Where to; by default a GPU where there is one.
        cfg_options: Keys of the config to set, such as
            ``{'model.test_cfg.mode': 'whole'}``.

    Returns:
        The model in evaluation mode, with ``cfg``, ``dataset_meta``
        (``classes`` and ``palette``) and ``receipt``.

    Raises:
        ConfigError: The config cannot be used, or the checkpoint has none;
            or several checkpoints take or give different things.
        WeightsError: The weights do not fit the model.
        FileNotFoundError: There is no such file.
    """
    if isinstance(source, Sequence) and not isinstance(source, str):
        options = dict(device=device, cfg_options=cfg_options)
        models = [init_model(one, checkpoint, **options) for one in source]
        return models[0] if len(models) == 1 else _ensemble(models, source)
    cfg, content = _read(source, checkpoint, cfg_options or {})
    checkpoint = str(source if checkpoint is None else checkpoint)
    with DefaultScope.overwrite_default_scope(scope(cfg)):
        model = MODELS.build(cfg.model)
        model.dataset_meta = _dataset_meta(content, cfg)
    model.receipt = load_segmentor(
        model,
        complete_weights(model, content, source=checkpoint),
        source=checkpoint,
    )
    print_log(model.receipt.summary(), logger='current')
    model.cfg = cfg
    if device is None:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model.to(device)
    model.eval()
    return model


def _read(
    source: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None,
    cfg_options: Mapping[str, Any],
) -> tuple[Config, dict[str, Any]]:
    """Return the config, with its options, and what the checkpoint holds."""
    if checkpoint is None and str(source).endswith('.py'):
        raise ConfigError(
            f'init_model({str(source)!r}) has no weights; give the checkpoint '
            'as well, or the checkpoint alone'
        )
    if checkpoint is not None and not isinstance(source, Config):
        cfg = load_config(source, overrides=cfg_options)
        return cfg, read_checkpoint(checkpoint)
    if checkpoint is None:
        content = read_checkpoint(source)
        cfg = checkpoint_config(content, str(source))
        _check_stored(cfg, str(source))
    else:
        content, cfg = read_checkpoint(checkpoint), copy.deepcopy(source)
    cfg.merge_from_dict(dict(cfg_options))
    return cfg, content


def predict(
    model: nn.Module,
    images: Image | Sequence[Image],
    *,
    batch_size: int = 1,
) -> SegDataSample | list[SegDataSample]:
    """Segment images.

    They go through the test pipeline of the model's config, without masks;
    the model's ``test_cfg`` says how (whole, sliding, augmented). An EXIF
    orientation is applied.

    Args:
        model: From ``init_model``.
        images: A path, an array (``(H, W)``, or ``(H, W, C)``; three
            channels are RGB), or a list of these. Of a model of volumes the
            list has a path a case, or a list of paths, one a channel.
        batch_size: How many images of equal size to run at once.

    Returns:
        A sample an image, or one sample for one image. Its
        ``pred_sem_seg.data`` is ``(1, H, W)``, class indices at the size of
        the image (0 and 1 for one foreground class), or ``(K, H, W)`` of 0
        and 1 for a multi-label model; of volumes ``(1, D, H, W)`` or ``(K,
        D, H, W)``, in the grid of the file.

    Raises:
        DataError: An image cannot be read or transformed; names it.
    """
    single = isinstance(images, str | os.PathLike | np.ndarray)
    samples = []
    inputs = prepare(model.cfg, [images] if single else images)
    with torch.no_grad():
        for batch in batches(inputs, batch_size):
            samples += model.test_step(batch)
    return samples[0] if single else samples


def predict_files(
    model: nn.Module,
    images: str | os.PathLike,
    out_dir: str | os.PathLike,
    *,
    opacity: float = 0.5,
) -> None:
    """Segment files, and write a picture and a label map of each.

    Below ``out_dir``, in the subfolders of the images: ``overlays/x.png``
    with a legend, and ``labels/x.png``, whose pixel values are the classes
    (see ``visualization.save_label_maps``). An image that fails is logged
    with its name, and the others go on. With a model of volumes see
    ``predict_cases``.

    Args:
        model: From ``init_model``.
        images: A file, a folder, which is searched with its subfolders, or a
            pattern such as ``'scans/**/*.tif'``.
        out_dir: Where to write.
        opacity: Of the colours over the image, 0..1.

    Raises:
        DataNotFoundError: There are no images.
        ValueError: Some image failed; raised after the last one.
    """
    if takes_volumes(model.cfg):
        total, failed = predict_cases(model, images, out_dir, opacity=opacity)
    else:
        total, failed = _predict_images(model, images, Path(out_dir), opacity)
    done = f'{total - failed} of {total} images predicted'
    if failed:
        raise ValueError(f'{done}, {failed} failed; see above')
    print_log(f'{done}; see {out_dir}', 'current')


def _predict_images(
    model: nn.Module, images: str | os.PathLike, out_dir: Path, opacity: float
) -> tuple[int, int]:
    targets = _find_images(os.fspath(images))
    failed = 0
    for path, name in track(targets.items(), 'Predicting'):
        try:
            labels = to_label_picture(predict(model, path).pred_sem_seg.data)
            _write_prediction(model, path, labels, name, out_dir, opacity)
        except (OSError, ValueError) as error:
            failed += 1
            print_log(f'{path}: {error}', 'current', logging.ERROR)
    return len(targets), failed


def _ensemble(
    models: Sequence[nn.Module], sources: Sequence[str | os.PathLike]
) -> Ensemble:
    """Put models together that see and name the same."""

    def facts(model: nn.Module) -> dict[str, Any]:
        return dict(
            classes=model.dataset_meta['classes'],
            pipeline=dataset_config(model.cfg)['pipeline'],
            data_preprocessor=model.cfg.model.get('data_preprocessor'),
        )

    first = models[0]
    for model, source in zip(models[1:], sources[1:], strict=True):
        mine, other = facts(first), facts(model)
        differing = [name for name in mine if mine[name] != other[name]]
        if differing:
            raise ConfigError(
                f'{source} and {sources[0]} cannot be averaged: their '
                f'{", ".join(differing)} differ; predict with each alone'
            )
    ensemble = Ensemble(models).eval()
    ensemble.cfg, ensemble.dataset_meta = first.cfg, first.dataset_meta
    return ensemble


def _check_stored(cfg: Config, source: str) -> None:
    """Refuse what a checkpoint's own config would have built, and run."""
    with DefaultScope.overwrite_default_scope(scope(cfg)):
        check_types(cfg.model, source=source)
        check_types(
            dataset_config(cfg).get('pipeline', []),
            source=source,
            name='pipeline',
            registry=TRANSFORMS,
        )


def _dataset_meta(checkpoint: Mapping, cfg: Config) -> dict:
    """Find class names and colours: in the checkpoint, or by the config."""
    meta = checkpoint.get('meta', {})
    found = dict(meta.get('dataset_meta') or {})
    if not found and 'CLASSES' in meta:  # mmseg 0.x
        found = dict(classes=meta['CLASSES'], palette=meta.get('PALETTE'))
    if not found:
        dataset = dataset_config(cfg)
        cls = DATASETS.get(dataset['type'])
        found = {
            **getattr(cls, 'METAINFO', {}),
            **(dataset.get('metainfo') or {}),
            **{k: dataset[k] for k in ('classes', 'palette') if k in dataset},
        }
    if not found.get('classes'):
        raise ConfigError(
            'neither the checkpoint nor test_dataloader.dataset names the '
            "classes; set cfg_options={'test_dataloader.dataset.metainfo': "
            'dict(classes=[...])}'
        )
    classes = found['classes']
    palette = found.get('palette') or ()
    if len(palette) != len(classes):
        palette = generate_palette(classes)
    return {**found, 'classes': list(classes), 'palette': list(palette)}


def _find_images(pattern: str) -> dict[Path, Path]:
    """Map each image to its name below the output folders."""
    root, found = find_files(
        pattern, lambda f: f.suffix.lower() in IMAGE_SUFFIXES, 'images'
    )
    relative = {f: f.relative_to(root) for f in found}
    uses = Counter(name.with_suffix('') for name in relative.values())
    return {
        f: name.with_suffix('.png')
        if uses[name.with_suffix('')] == 1
        else name.with_name(f'{name.name}.png')
        for f, name in relative.items()
    }


def _write_prediction(
    model: nn.Module,
    image: Path,
    labels: np.ndarray,
    name: Path,
    out_dir: Path,
    opacity: float,
) -> None:
    classes = model.dataset_meta['classes']
    palette = model.dataset_meta['palette']
    channels = np.moveaxis(read_image(image), -1, 0)
    picture = to_picture(channels[::-1] if len(channels) == 3 else channels)
    overlay = draw_overlay(
        picture, labels, classes=classes, palette=palette, opacity=opacity
    )
    save_picture(out_dir / 'overlays' / name, overlay)
    target = out_dir / 'labels' / name
    save_label_maps(target, labels, classes=classes, palette=palette)
