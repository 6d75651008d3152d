"""Arrays from image and mask files, or an error that names the file."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

IMAGE_SUFFIXES = (
    '.png',
    '.jpg',
    '.jpeg',
    '.tif',
    '.tiff',
    '.bmp',
    '.webp',
    '.npy',
)
# JPEG is listed so that a mask in it is refused by name, not overlooked.
MASK_SUFFIXES = (*IMAGE_SUFFIXES, '.gif')

_ORIENTATION = 0x0112  # the tag in EXIF and in TIFF
_TIFF_MAGIC = (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+')
_NPY_MAGIC = b'\x93NUMPY'
_JPEG_MAGIC = b'\xff\xd8\xff'
_JPEG_END = b'\xff\xd9'
_PNG_MAGIC = b'\x89PNG\r\n\x1a\n'
_GREY_BYTES = b'\x08\x00'  # bit depth and colour type in a PNG's header


def read_image(path: str | Path) -> np.ndarray:
    """Read an image with every bit and channel it has.

    The bytes decide the format, not the suffix. A palette is turned into
    colours. The EXIF or TIFF orientation is applied, so the array is what a
    viewer shows. The pages of a TIFF become channels.

    Args:
        path: PNG, JPEG, TIFF, BMP, WebP or ``.npy`` (``(H, W)`` or
            ``(H, W, C)``).

    Returns:
        ``(H, W, C)``, channels in the order of the file (RGB, RGBA, bands),
        with the dtype of the file.

    Raises:
        ValueError: The file is missing, empty, truncated, corrupt or no
            image; the message names it.
    """
    return _named(path, _decode_image)


def read_mask(path: str | Path) -> np.ndarray:
    """Read a label file; palette images give their indices.

    A GIF, which always has a palette, gives greys where the palette is grey.

    Args:
        path: PNG, TIFF, BMP, GIF, lossless WebP or ``.npy``.

    Returns:
        ``(H, W)``, or ``(H, W, C)`` with the channels in the order of the
        file, with the dtype of the file. An EXIF orientation is not applied.

    Raises:
        ValueError: The file is missing, truncated, corrupt, or a JPEG, whose
            compression changes labels; the message names it.
    """
    return _named(path, _decode_mask)


def drop_opaque_alpha(image: np.ndarray, path: str, change: str) -> np.ndarray:
    """Drop the last channel, which must be opaque everywhere.

    Args:
        image: ``(H, W, C)``.
        path: The file, for messages.
        change: What to do about transparent pixels, for messages.

    Raises:
        ValueError: A pixel is transparent.
    """
    alpha = image[..., -1]
    opaque = np.iinfo(image.dtype).max if image.dtype.kind in 'iu' else 1
    if (alpha != opaque).any():
        raise ValueError(
            f'{path}: {int((alpha != opaque).sum())} pixels are '
            'transparent, so their colour is not defined; flatten the image, '
            f'or {change}'
        )
    return image[..., :-1]


def _named(path: str | Path, decode) -> np.ndarray:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f'{path}: cannot be read: {error}') from error
    if not data:
        raise ValueError(f'{path}: the file is empty (0 bytes)')
    try:
        return decode(data)
    except ImportError as error:
        raise ImportError(f'{path}: {error}') from error
    except Exception as error:
        # Decoders raise whatever they like on broken bytes.
        raise ValueError(
            f'{path}: cannot be decoded, is the file truncated or corrupt? '
            f'({type(error).__name__}: {error})'
        ) from error


def _decode_image(data: bytes) -> np.ndarray:
    if data.startswith(_NPY_MAGIC):
        return _decode_npy(data)
    if data.startswith(_TIFF_MAGIC):
        return _decode_tiff(data, indices=False)
    if _lacks_end(data):
        # OpenCV 4 fills what is missing with grey, without an error.
        Image.open(io.BytesIO(data)).load()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise ValueError(f'OpenCV reads no image from its {len(data)} bytes')
    image = _channels_last(image)
    if image.shape[2] == 3:
        image = image[..., ::-1]
    elif image.shape[2] == 4:
        image = cv2.cvtColor(image, cv2.COLOR_BGRA2RGBA)
    if data.startswith(_JPEG_MAGIC) and not _may_be_turned(data):
        return image
    with Image.open(io.BytesIO(data)) as header:
        return _orient(image, header.getexif().get(_ORIENTATION, 1))


def _decode_mask(data: bytes) -> np.ndarray:
    if data.startswith(_NPY_MAGIC):
        return _decode_npy(data)
    if data.startswith(_TIFF_MAGIC):
        return _decode_tiff(data, indices=True)
    if data.startswith(_JPEG_MAGIC):
        raise ValueError(
            'a JPEG mask has other labels than were saved, because JPEG is '
            'lossy; write the masks as PNG'
        )
    if data.startswith(_PNG_MAGIC) and data[24:26] == _GREY_BYTES:
        mask = _decode_grey_png(data)
        if mask is not None:
            return mask
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        if image.format == 'GIF' and _is_grey(image):
            # Every GIF has a palette: one of greys is how it writes grey.
            image = image.convert('L')
        mask = np.asarray(image)
    if data.startswith(_PNG_MAGIC):
        depth, color = data[24], data[25]
        if depth == 16 and color in (2, 6):
            raise ValueError(
                'Pillow reads 16-bit colour with 8 bits; write the mask as '
                '16-bit grey, as 8-bit colour or as .npy'
            )
        if color == 0 and depth in (2, 4):
            # Pillow stretches 2-bit and 4-bit grey to 0..255.
            mask = mask // (255 // (2**depth - 1))
    return mask


def _decode_grey_png(data: bytes) -> np.ndarray | None:
    """Decode 8-bit grey with OpenCV, or ``None`` if Pillow is to look."""
    if _lacks_end(data):
        return None
    mask = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    # A transparent grey gives it four channels.
    return mask if mask is not None and mask.ndim == 2 else None


def _is_grey(image: Image.Image) -> bool:
    """Whether a palette holds greys only."""
    if image.mode != 'P':
        return False
    colors = np.reshape(image.getpalette('RGB'), (-1, 3))
    return bool((colors == colors[:, :1]).all())


def _decode_npy(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


def _decode_tiff(data: bytes, *, indices: bool) -> np.ndarray:
    # Pillow and OpenCV drop bands and bits of unusual TIFFs in silence.
    try:
        import tifffile
    except ImportError as error:
        raise ImportError(
            'TIFF files need tifffile; pip install tifffile'
        ) from error
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        series = file.series
        if len(series) != 1:
            shapes = [s.shape for s in series]
            raise ValueError(
                f'it holds {len(series)} images of shapes {shapes}; write '
                'one image, or pages of one size, a file'
            )
        try:
            array = series[0].asarray()
        except ValueError:
            # tifffile leaves LZW and JPEG to imagecodecs; Pillow has them.
            if page.bitspersample > 8 and page.samplesperpixel > 1:
                raise
            return _decode_tiff_with_pillow(data, indices=indices)
        array = _rows_first(array, series[0].axes)
        photometric = page.photometric.name
        if photometric == 'MINISWHITE' and array.dtype.kind in 'bu':
            top = True if array.dtype == bool else 2**page.bitspersample - 1
            array = top ^ array
        if photometric == 'PALETTE' and not indices:
            array = (page.colormap.T >> 8).astype(np.uint8)[array]
        if indices:
            return array
        tag = page.tags.get(_ORIENTATION)
        return _orient(_channels_last(array), tag.value if tag else 1)


def _rows_first(array: np.ndarray, axes: str) -> np.ndarray:
    """Move rows and columns to the front; at most one axis follows."""
    if array.ndim > 3:
        raise ValueError(
            f'it has the axes {axes} of shape {array.shape}; one axis beside '
            'Y and X can become the channels'
        )
    return np.moveaxis(array, (axes.index('Y'), axes.index('X')), (0, 1))


def _decode_tiff_with_pillow(data: bytes, *, indices: bool) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        if getattr(image, 'n_frames', 1) > 1:
            raise ValueError(
                'several compressed pages; pip install imagecodecs, or '
                'write them without compression'
            )
        if image.mode == 'P' and not indices:
            image = image.convert('RGB')
        array = np.asarray(image)
    return array if indices else _channels_last(array)


def _channels_last(image: np.ndarray) -> np.ndarray:
    return image[..., None] if image.ndim == 2 else image


def _may_be_turned(data: bytes) -> bool:
    """Whether a JPEG has a segment APP1 (EXIF, XMP) or an unusual header."""
    start = 2
    while data[start : start + 1] == b'\xff':
        marker = data[start + 1 : start + 2]
        if marker == b'\xda':  # the pixels start
            return False
        if marker == b'\xe1':
            return True
        start += 2 + int.from_bytes(data[start + 2 : start + 4], 'big')
    return True


def _lacks_end(data: bytes) -> bool:
    """Whether a JPEG or PNG shows no end mark; a strict load then decides."""
    if data.startswith(_JPEG_MAGIC):
        # A preview inside the header has an end mark of its own.
        return not data.endswith(_JPEG_END) and (
            data.rfind(_JPEG_END) <= data.rfind(b'\xff\xda')
        )
    if data.startswith(_PNG_MAGIC):
        return b'IEND' not in data[-64:]
    return False


def _orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation 1..8 (Exif 2.32, tag 274)."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return image
