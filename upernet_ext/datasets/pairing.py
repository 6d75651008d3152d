"""Images and masks in folders: where they are, and which belong together."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .transforms.reading import IMAGE_SUFFIXES, MASK_SUFFIXES

IMAGE_FOLDERS = ('img_dir', 'images', 'imgs')
MASK_FOLDERS = ('ann_dir', 'labels', 'masks', 'annotations')


def find_folders(
    root: Path,
    split: str | None,
    img_dir: str | Path | None,
    ann_dir: str | Path | None,
    *,
    needs_masks: bool,
) -> tuple[Path, Path | None]:
    """Return the folders of images and masks.

    Args:
        root: The folder to look in.
        split: The name of a folder inside or around them, or ``None``.
        img_dir: Below ``root``, instead of looking for it.
        ann_dir: Below ``root``, instead of looking for it.
        needs_masks: Whether images alone are refused. If not, the second
            folder may be ``None``.

    Raises:
        ValueError: They are not there, or one is given and the other not.
    """
    if img_dir is not None:
        return _named_folders(root, img_dir, ann_dir, needs_masks)
    if ann_dir is not None:
        raise ValueError(
            f'FolderDataset: ann_dir={ann_dir!r} needs its img_dir'
        )
    without_masks = None
    for image, mask in _layouts(root, split or ''):
        if image.is_dir() and mask.is_dir():
            return image, mask
        if image.is_dir() and without_masks is None:
            without_masks = image
    if without_masks is not None and not needs_masks:
        return without_masks, None
    found = f', found the images {without_masks}' if without_masks else ''
    raise ValueError(
        f'FolderDataset: no images with masks under {root}'
        f'{_describe_content(root)}; looked for {_looked_for(split)}{found}; '
        'give img_dir and ann_dir for other names ('
        + (
            'split=None reads folders that are not split)'
            if split
            else 'split names the folder of one split)'
        )
    )


def _named_folders(
    root: Path,
    img_dir: str | Path,
    ann_dir: str | Path | None,
    needs_masks: bool,
) -> tuple[Path, Path | None]:
    images = root / img_dir
    if not images.is_dir():
        raise ValueError(f'FolderDataset: img_dir {images} missing')
    if ann_dir is None:
        if not needs_masks:
            return images, None
        raise ValueError(
            f'FolderDataset: img_dir={img_dir!r} needs its '
            'ann_dir (only test_mode=True goes without masks)'
        )
    masks = root / ann_dir
    if not masks.is_dir():
        raise ValueError(f'FolderDataset: ann_dir {masks} missing')
    return images, masks


def _layouts(root: Path, split: str) -> list[tuple[Path, Path]]:
    names = [(i, m) for i in IMAGE_FOLDERS for m in MASK_FOLDERS]
    outside = [(root / i / split, root / m / split) for i, m in names]
    inside = [(root / split / i, root / split / m) for i, m in names]
    return outside + inside


def _looked_for(split: str | None) -> str:
    images, masks = '|'.join(IMAGE_FOLDERS), '|'.join(MASK_FOLDERS)
    if not split:
        return f'{{{images}}} with {{{masks}}}'
    return (
        f'{{{images}}}/{split} with {{{masks}}}/{split}, or '
        f'{split}/{{{images}}} with {split}/{{{masks}}}'
    )


def pair_files(
    img_dir: Path,
    ann_dir: Path | None,
    img_suffix: str | None,
    seg_map_suffix: str | None,
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the images' and the masks' paths by what pairs them.

    That is a path below its folder without the suffix. Without an
    ``ann_dir`` there are no masks.

    Raises:
        ValueError: There are no images, or one of either has no partner, or
            two.
    """
    images = _list_files(img_dir, img_suffix, IMAGE_SUFFIXES)
    if not images:
        raise ValueError(
            f'FolderDataset: no images in {img_dir}'
            f'{_describe_content(img_dir)}; looked for names that end in '
            f'{img_suffix or ", ".join(IMAGE_SUFFIXES)}'
        )
    masks = {}
    if ann_dir is not None:
        masks = _list_files(ann_dir, seg_map_suffix, MASK_SUFFIXES)
        _check_pairs(images, masks, img_dir, ann_dir)
    return images, masks


def _list_files(
    folder: Path, suffix: str | None, suffixes: Sequence[str]
) -> dict[str, str]:
    """Return path by key: the path below ``folder`` without its suffix."""
    files: dict[str, str] = {}
    for parent, _, names in os.walk(folder, followlinks=True):
        for name in names:
            path = Path(parent, name)
            if name.startswith('.'):
                continue
            if suffix is None:
                if path.suffix.lower() not in suffixes:
                    continue
                end = len(path.suffix)
            elif name.endswith(suffix):
                end = len(suffix)
            else:
                continue
            key = path.relative_to(folder).as_posix()[:-end]
            if key in files:
                raise ValueError(
                    f'FolderDataset: {files[key]} and {path} have the same '
                    'name up to the suffix; remove one, or set img_suffix / '
                    'seg_map_suffix'
                )
            files[key] = str(path)
    return dict(sorted(files.items()))


def _check_pairs(
    images: Mapping[str, str],
    masks: Mapping[str, str],
    img_dir: Path,
    ann_dir: Path,
) -> None:
    lonely = []
    for here, there, one, other, folder in (
        (images, masks, 'image', 'mask', ann_dir),
        (masks, images, 'mask', 'image', img_dir),
    ):
        files = [path for key, path in here.items() if key not in there]
        if files:
            more = ', ...' if len(files) > 3 else ''
            lonely.append(
                f'{len(files)} of {len(here)} {one}s have no {other} in '
                f'{folder}: {", ".join(files[:3])}{more}'
            )
    if lonely:
        raise ValueError(
            f'FolderDataset: {"; ".join(lonely)}; names must be equal up to '
            'the suffix, or up to img_suffix and seg_map_suffix where given'
        )


def _describe_content(folder: Path) -> str:
    if not folder.is_dir():
        return ' (which does not exist)'
    names = sorted(path.name for path in folder.iterdir())
    more = ', ...' if len(names) > 6 else ''
    return (
        f' (which holds {", ".join(names[:6])}{more})'
        if names
        else (' (which is empty)')
    )
