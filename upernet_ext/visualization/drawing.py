"""Draw labels over images: uint8 RGB arrays ``(H, W, 3)`` in and out.

Labels are ``(H, W)`` class indices, or ``(K, H, W)`` of 0 and 1 where classes
may overlap; 255 is ignored, and hatched. With one class name, label 1 is that
class and label 0, the background, is left bare.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..datasets.palette import generate_palette
from ..structures import IGNORE_INDEX

_INK, _PAPER = (32, 32, 32), (255, 255, 255)
_BACKGROUND = (0, 0, 0)
# Panels of a comparison have at least this many pixels on their short side.
_MIN_SIDE = 256

Palette = Sequence[Sequence[int]]


def to_picture(inputs: torch.Tensor | np.ndarray) -> np.ndarray:
    """Turn a model's input into a picture.

    Args:
        inputs: ``(C, H, W)`` or ``(C, D, H, W)`` on the 0..255 scale. Three
            channels are BGR; of four or more the first three are taken as
            RGB, of two the first. Of a volume the middle slice is shown.
            Where values leave 0..255 all are stretched to fit.

    Returns:
        ``(H, W, 3)``, uint8, RGB.
    """
    image = np.asarray(torch.as_tensor(inputs).cpu())
    image = _middle_slice(image)
    order = {1: [0, 0, 0], 2: [0, 0, 0], 3: [2, 1, 0]}.get(len(image))
    channels = image[order or [0, 1, 2]]
    picture = channels.transpose(1, 2, 0).astype(np.float32)
    low, high = picture.min(), picture.max()
    if low < 0 or high > 255:
        picture = (picture - low) * (255 / max(high - low, 1e-6))
    return np.ascontiguousarray(picture.round().astype(np.uint8))


def to_label_picture(labels: torch.Tensor | np.ndarray) -> np.ndarray:
    """Turn a ``GridData`` field into labels to draw.

    Args:
        labels: ``(1, *S)`` class indices or ``(K, *S)`` of 0 and 1; of a
            volume the middle slice is taken.

    Returns:
        ``(H, W)`` or ``(K, H, W)``.
    """
    field = _middle_slice(np.asarray(torch.as_tensor(labels).cpu()))
    return field[0] if len(field) == 1 else field


def draw_overlay(
    image: np.ndarray,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    palette: Palette | None = None,
    opacity: float = 0.5,
    legend: bool = True,
) -> np.ndarray:
    """Draw labels over an image.

    Args:
        image: ``(H, W, 3)``, uint8, RGB.
        labels: ``(H, W)`` or ``(K, H, W)``; see the module.
        classes: Name of each class.
        palette: RGB colour of each class; made up where ``None``.
        opacity: 0 shows the image only, 1 the colours only.
        legend: Add the classes that occur, at the right. The picture grows.

    Returns:
        ``(H', W', 3)``, uint8, RGB; ``image``'s pixels at the top left.

    Raises:
        ValueError: The sizes differ, a label is no class, ``opacity`` is
            outside 0..1, or there are fewer colours than classes.
    """
    palette = _check(image, labels, classes, palette, opacity)
    picture = _blend(image, labels, palette, opacity)
    if not legend:
        return picture
    entries = _legend_entries([labels], classes, palette)
    return _beside([picture, _draw_legend(entries, picture.shape[0])])


def draw_comparison(
    image: np.ndarray,
    truth: np.ndarray | None,
    prediction: np.ndarray,
    *,
    classes: Sequence[str],
    palette: Palette | None = None,
    opacity: float = 0.5,
    legend: bool = True,
) -> np.ndarray:
    """Draw image | truth | prediction side by side, with titles.

    Small images are enlarged, to at least 256 pixels on the short side.

    Args:
        image: ``(H, W, 3)``, uint8, RGB.
        truth: Labels as in ``draw_overlay``, or ``None`` to leave them out.
        prediction: Labels as in ``draw_overlay``.
        classes: Name of each class.
        palette: RGB colour of each class; made up where ``None``.
        opacity: 0 shows the image only, 1 the colours only.
        legend: Add the classes that occur, at the right.

    Returns:
        ``(H', W', 3)``, uint8, RGB.

    Raises:
        ValueError: As in ``draw_overlay``.
    """
    panels = {'image': None, 'truth': truth, 'prediction': prediction}
    if truth is None:
        del panels['truth']
    factor = -(-_MIN_SIDE // min(image.shape[:2]))
    enlarged = _enlarge(image, factor)
    drawn, shown = [], []
    for title, labels in panels.items():
        picture = enlarged
        if labels is not None:
            colors = _check(image, labels, classes, palette, opacity)
            shown.append(labels)
            picture = _blend(
                enlarged, _enlarge_labels(labels, factor), colors, opacity
            )
        drawn.append(_with_title(picture, title))
    if legend:
        entries = _legend_entries(shown, classes, colors)
        drawn.append(_draw_legend(entries, drawn[0].shape[0]))
    return _beside(drawn)


def save_picture(path: str | Path, picture: np.ndarray) -> None:
    """Write an RGB picture; the folder is made, the suffix is the format."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)


def save_label_maps(
    path: str | Path,
    labels: np.ndarray,
    *,
    classes: Sequence[str],
    palette: Palette | None = None,
) -> None:
    """Write labels as PNGs whose pixel values are the labels.

    Up to 256 labels make an 8-bit palette image, which viewers show in
    colour, more a 16-bit one. Overlapping classes make one image of 0 and 1
    each: ``x.{class}.png``.

    Args:
        path: Where to, ``x.png``; the folder is made.
        labels: ``(H, W)`` or ``(K, H, W)``; see the module.
        classes: Name of each class.
        palette: RGB colour of each class; made up where ``None``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    colors = generate_palette(classes) if palette is None else palette
    if labels.ndim == 3:
        for plane, name, color in zip(labels, classes, colors, strict=True):
            part = re.sub(r'[^\w-]+', '_', name)
            target = path.with_name(f'{path.stem}.{part}.png')
            _save_label_map(target, plane, [_BACKGROUND, color])
    elif len(classes) == 1:
        _save_label_map(path, labels, [_BACKGROUND, *colors])
    else:
        _save_label_map(path, labels, colors)


def _save_label_map(path: Path, labels: np.ndarray, palette: Palette) -> None:
    if len(palette) > 256:
        Image.fromarray(labels.astype(np.uint16)).save(path)
        return
    image = Image.fromarray(labels.astype(np.uint8), mode='P')
    image.putpalette([channel for color in palette for channel in color])
    image.save(path)


def _middle_slice(field: np.ndarray) -> np.ndarray:
    return field[:, field.shape[1] // 2] if field.ndim == 4 else field


def _check(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    palette: Palette | None,
    opacity: float,
) -> np.ndarray:
    """Return the palette as ``(K, 3)``, once everything fits."""
    if labels.shape[-2:] != image.shape[:2]:
        raise ValueError(
            f'labels of size {labels.shape[-2:]} do not fit an image of size '
            f'{image.shape[:2]}; resize one of them'
        )
    if not 0 <= opacity <= 1:
        raise ValueError(f'opacity must be in 0..1, got {opacity}')
    colors = generate_palette(classes) if palette is None else palette
    if len(colors) < len(classes):
        raise ValueError(
            f'{len(classes)} classes need as many colours, got {len(colors)}'
        )
    overlapping = labels.ndim == 3
    if overlapping and len(labels) != len(classes):
        raise ValueError(
            f'labels of shape {labels.shape} have {len(labels)} planes for '
            f'{len(classes)} classes'
        )
    top = 1 if overlapping else max(len(classes) - 1, 1)
    known = labels[labels != IGNORE_INDEX]
    if known.size and not 0 <= known.min() <= known.max() <= top:
        raise ValueError(
            f'labels are 0..{top} or {IGNORE_INDEX} (ignored), got '
            f'{known.min()}..{known.max()}'
        )
    return np.asarray(colors, np.float32)[: len(classes)]


def _planes(labels: np.ndarray, num_classes: int) -> np.ndarray | None:
    """Return ``(K, H, W)`` where background is bare, else ``None``."""
    if labels.ndim == 3:
        return labels
    return labels[None] if num_classes == 1 else None


def _blend(
    image: np.ndarray, labels: np.ndarray, palette: np.ndarray, opacity: float
) -> np.ndarray:
    planes = _planes(labels, len(palette))
    if planes is None:
        ignored = labels == IGNORE_INDEX
        table = np.zeros((max(len(palette), IGNORE_INDEX) + 1, 3), np.float32)
        table[: len(palette)] = palette
        colors, covered = table[labels], ~ignored
        edges = _edges(labels)
    else:
        ignored = (planes == IGNORE_INDEX).all(0)
        on = planes == 1
        count = on.sum(0)
        mixed = np.tensordot(on.astype(np.float32), palette, (0, 0))
        colors = mixed / np.maximum(count, 1)[..., None]
        covered = count > 0
        edges = np.any([_edges(plane) for plane in on], axis=0)
    weight = np.where(edges, min(1, 1.6 * opacity), opacity) * covered
    rows, columns = np.indices(ignored.shape, sparse=True)
    hatch = (rows + columns) // 3 % 2
    colors[ignored] = np.where(hatch, 230, 90)[ignored][:, None]
    weight[ignored] = min(1, 1.6 * opacity)
    weight = weight[..., None].astype(np.float32)
    picture = image * (1 - weight) + colors * weight
    return picture.round().astype(np.uint8)


def _edges(labels: np.ndarray) -> np.ndarray:
    """Mark pixels whose right or lower neighbour differs."""
    edges = np.zeros(labels.shape, bool)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def _legend_entries(
    shown: Sequence[np.ndarray], classes: Sequence[str], palette: np.ndarray
) -> list[tuple[str, tuple[int, ...] | None]]:
    """List names and colours of what occurs; no colour is "ignored"."""
    present: set[int] = set()
    ignored = False
    for labels in shown:
        planes = _planes(labels, len(classes))
        if planes is None:
            present |= set(np.unique(labels).tolist())
            ignored |= IGNORE_INDEX in present
        else:
            present |= {k for k, plane in enumerate(planes) if 1 in plane}
            ignored |= bool((planes == IGNORE_INDEX).all(0).any())
    entries = [
        (name, tuple(int(c) for c in palette[k]))
        for k, name in enumerate(classes)
        if k in present
    ]
    return entries + [('ignored', None)] * ignored


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    fonts = Path(matplotlib.get_data_path(), 'fonts', 'ttf')
    return ImageFont.truetype(str(fonts / 'DejaVuSans.ttf'), size)


def _font_size(height: int) -> int:
    return max(13, height // 30)


def _draw_legend(
    entries: Sequence[tuple[str, tuple[int, ...] | None]], height: int
) -> np.ndarray:
    """Draw swatches and names in as many columns as ``height`` asks for."""
    size = _font_size(height)
    font, row, margin = _font(size), round(1.7 * size), size // 2
    rows = max((height - margin) // row, 8)
    columns = [entries[i : i + rows] for i in range(0, len(entries), rows)]
    widths = [
        round(2.2 * size + max(font.getlength(name) for name, _ in column))
        for column in columns
    ]
    canvas = Image.new(
        'RGB',
        (
            sum(widths) + margin * (len(widths) + 1),
            max(height, margin + row * max(map(len, columns), default=0)),
        ),
        _PAPER,
    )
    draw = ImageDraw.Draw(canvas)
    left = margin
    for column, width in zip(columns, widths, strict=True):
        for i, (name, color) in enumerate(column):
            top = margin + i * row
            box = (left, top, left + size, top + size)
            draw.rectangle(box, fill=color or (230, 230, 230), outline=_INK)
            if color is None:
                for shift in range(4, 2 * size, 6):
                    start, stop = min(shift, size), max(shift - size, 0)
                    draw.line(
                        (left + start, top + stop, left + stop, top + start),
                        fill=(90, 90, 90),
                        width=2,
                    )
            middle = (left + 1.6 * size, top + size / 2)
            draw.text(middle, name, fill=_INK, font=font, anchor='lm')
        left += width + margin
    return np.asarray(canvas)


def _with_title(picture: np.ndarray, title: str) -> np.ndarray:
    height, width = picture.shape[:2]
    size = _font_size(height)
    strip = Image.new('RGB', (width, 2 * size), _PAPER)
    ImageDraw.Draw(strip).text(
        (width / 2, size), title, fill=_INK, font=_font(size), anchor='mm'
    )
    return np.concatenate([np.asarray(strip), picture])


def _beside(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Join pictures from left to right, on white."""
    height = max(len(picture) for picture in pictures)
    gap = np.full((height, max(2, height // 100), 3), 255, np.uint8)
    row = []
    for picture in pictures:
        below = ((0, height - len(picture)), (0, 0), (0, 0))
        row += [np.pad(picture, below, constant_values=255), gap]
    return np.concatenate(row[:-1], axis=1)


def _enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    if factor == 1:
        return image
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)


def _enlarge_labels(labels: np.ndarray, factor: int) -> np.ndarray:
    return labels.repeat(factor, axis=-1).repeat(factor, axis=-2)
