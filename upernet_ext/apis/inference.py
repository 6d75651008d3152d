"""Use a trained model in five lines.

>>> from upernet_ext.apis import init_model, predict
>>> model = init_model('work_dirs/upernet_vit-l_ade20k/iter_160000.pth')
>>> sample = predict(model, 'street.jpg')
>>> labels = sample.pred_sem_seg.data[0]  # (H, W), class indices
>>> names = [model.dataset_meta['classes'][k] for k in labels.unique()]
"""

import copy
import glob
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from mmseg.structures import SegDataSample
from rich.progress import track
from torch import nn

from ..config import ConfigError, load_config
from ..datasets.palette import generate_palette
from ..datasets.pipeline import run_pipeline
from ..datasets.transforms.reading import IMAGE_SUFFIXES, read_image
from ..engine import DataNotFoundError
from ..engine.checkpoint_config import checkpoint_config
from ..interop import load_segmentor, read_checkpoint
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

Image = str | os.PathLike | np.ndarray


def init_model(
    source: str | os.PathLike | Config,
    checkpoint: str | os.PathLike | None = None,
    *,
    device: str | torch.device | None = None,
    cfg_options: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Build a trained model, ready to predict.

    Args:
        source: A checkpoint that this package (or mmseg) wrote: its config
            and class names travel in it. Or a config, with ``checkpoint``.
        checkpoint: Path or https URL of the weights of a config.
        device: Where to; by default a GPU where there is one.
        cfg_options: Keys of the config to set, such as
            ``{'model.test_cfg.mode': 'whole'}``.

    Returns:
        The model in evaluation mode, with ``cfg``, ``dataset_meta``
        (``classes`` and ``palette``) and ``receipt``.

    Raises:
        ConfigError: The config cannot be used, or the checkpoint has none.
        WeightsError: The weights do not fit the model.
        FileNotFoundError: There is no such file.
    """
    if checkpoint is None and not str(source).endswith('.py'):
        content = read_checkpoint(checkpoint := source)
        cfg = checkpoint_config(content, str(source))
        _check_stored(cfg, str(source))
        cfg.merge_from_dict(dict(cfg_options or {}))
    elif checkpoint is None:
        raise ConfigError(
            f'init_model({str(source)!r}) has no weights; give the checkpoint '
            'as well, or the checkpoint alone'
        )
    elif isinstance(source, Config):
        content, cfg = read_checkpoint(checkpoint), copy.deepcopy(source)
        cfg.merge_from_dict(dict(cfg_options or {}))
    else:
        cfg = load_config(source, overrides=cfg_options)
        content = read_checkpoint(checkpoint)
    with DefaultScope.overwrite_default_scope(_scope(cfg)):
        model = MODELS.build(cfg.model)
        model.dataset_meta = _dataset_meta(content, cfg)
    model.receipt = load_segmentor(
        model,
        complete_weights(model, content, source=str(checkpoint)),
        source=str(checkpoint),
    )
    print_log(model.receipt.summary(), logger='current')
    model.cfg = cfg
    if device is None:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
    model.to(device)
    model.eval()
    return model


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
            channels are RGB), or a list of these.
        batch_size: How many images of equal size to run at once.

    Returns:
        A sample an image, or one sample for one image. Its
        ``pred_sem_seg.data`` is ``(1, H, W)``, class indices at the size of
        the image (0 and 1 for one foreground class), or ``(K, H, W)`` of 0
        and 1 for a multi-label model.

    Raises:
        DataError: An image cannot be read or transformed; names it.
    """
    single = isinstance(images, str | os.PathLike | np.ndarray)
    samples = []
    inputs = _run_pipeline(model.cfg, [images] if single else images)
    with torch.no_grad():
        for batch in _batches(inputs, batch_size):
            samples += model.test_step(batch)
    return samples[0] if single else samples


def predict_files(
    model: nn.Module,
    images: str | os.PathLike,
    out_dir: str | os.PathLike,
    *,
    opacity: float = 0.5,
) -> None:
    """Segment image files, and write a picture and a label map of each.

    Below ``out_dir``, in the subfolders of the images: ``overlays/x.png``
    with a legend, and ``labels/x.png``, whose pixel values are the classes
    (see ``visualization.save_label_maps``). An image that fails is logged
    with its name, and the others go on.

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
    targets = _find_images(os.fspath(images))
    failed = 0
    for path, name in track(targets.items(), 'Predicting'):
        try:
            labels = to_label_picture(predict(model, path).pred_sem_seg.data)
            _write_prediction(
                model, path, labels, name, Path(out_dir), opacity
            )
        except (OSError, ValueError) as error:
            failed += 1
            print_log(f'{path}: {error}', 'current', logging.ERROR)
    done = f'{len(targets) - failed} of {len(targets)} images'
    if failed:
        raise ValueError(f'{done} predicted, {failed} failed; see above')
    print_log(f'{done} predicted; see {out_dir}', 'current')


def _check_stored(cfg: Config, source: str) -> None:
    """Refuse what a checkpoint's own config would have built, and run."""
    with DefaultScope.overwrite_default_scope(_scope(cfg)):
        check_types(cfg.model, source=source)
        check_types(
            _test_dataset(cfg).get('pipeline', []),
            source=source,
            name='pipeline',
            registry=TRANSFORMS,
        )


def _scope(cfg: Config) -> str:
    return cfg.get('default_scope') or 'mmseg'


def _run_pipeline(cfg: Config, images: Sequence[Image]) -> Iterator[dict]:
    """Yield the model's input of each image."""
    from_file, from_array = _pipelines(cfg)
    for i, image in enumerate(images):
        if isinstance(image, np.ndarray):
            if image.ndim == 3 and image.shape[2] == 3:
                image = image[..., ::-1]
            sample = dict(img_path=f'array {i}', img=image)
            yield run_pipeline(from_array, sample)
        else:
            yield run_pipeline(from_file, dict(img_path=str(image)))


def _pipelines(cfg: Config) -> tuple[Compose, Compose]:
    """Build the test pipeline without masks, for files and for arrays."""
    from_file = [
        transform
        for transform in _test_dataset(cfg)['pipeline']
        if not _name(transform).startswith(('LoadMask', 'LoadAnnotation'))
    ]
    # LoadImage takes arrays too.
    from_array = [
        dict(type='mmseg.LoadImageFromNDArray')
        if _name(transform).startswith('LoadImageFrom')
        else transform
        for transform in from_file
    ]
    with DefaultScope.overwrite_default_scope(_scope(cfg)):
        return Compose(from_file), Compose(from_array)


def _name(transform: Mapping) -> str:
    return str(transform['type']).split('.')[-1]


def _test_dataset(cfg: Config) -> Mapping:
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if loader is None:
        raise ConfigError(
            'the config has no test_dataloader, whose pipeline says how to '
            'prepare an image'
        )
    dataset = loader['dataset']
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def _batches(inputs: Iterable[dict], batch_size: int) -> Iterator[dict]:
    """Collate neighbours of equal size."""
    batch: list[dict] = []
    for item in inputs:
        if batch and (
            len(batch) == batch_size
            or item['inputs'].shape != batch[0]['inputs'].shape
        ):
            yield pseudo_collate(batch)
            batch = []
        batch.append(item)
    if batch:
        yield pseudo_collate(batch)


def _dataset_meta(checkpoint: Mapping, cfg: Config) -> dict:
    """Find class names and colours: in the checkpoint, or by the config."""
    meta = checkpoint.get('meta', {})
    found = dict(meta.get('dataset_meta') or {})
    if not found and 'CLASSES' in meta:  # mmseg 0.x
        found = dict(classes=meta['CLASSES'], palette=meta.get('PALETTE'))
    if not found:
        dataset = _test_dataset(cfg)
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
    path = Path(pattern)
    if path.is_dir():
        root = path
        files = path.rglob('*')
        found = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES]
    elif path.is_file():
        root, found = path.parent, [path]
    else:
        fixed = takewhile(lambda part: not glob.has_magic(part), path.parts)
        root = Path(*fixed)
        names = map(Path, glob.glob(pattern, recursive=True))
        found = [f for f in names if f.is_file()]
    if not found:
        raise DataNotFoundError(
            f'no images at {pattern} (looked in {Path.cwd()})'
        )
    relative = {f: f.relative_to(root) for f in sorted(found)}
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
