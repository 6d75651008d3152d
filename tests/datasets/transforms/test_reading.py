import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageOps

from upernet_ext.datasets.transforms.reading import read_image, read_mask

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 31, 3), dtype=np.uint8)


def encode(array, suffix, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, suffix, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ('suffix', 'channels'),
    [(s, c) for s in ('png', 'tiff', 'bmp') for c in (1, 3)] + [('webp', 3)],
)
def test_lossless_formats_give_the_pixels_in_rgb(tmp_path, suffix, channels):
    array = RGB[..., :channels].squeeze()
    path = tmp_path / f'a.{suffix}'
    options = {'lossless': True} if suffix == 'webp' else {}
    path.write_bytes(encode(array, suffix, **options))
    np.testing.assert_array_equal(
        read_image(path), array.reshape(24, 31, channels)
    )
    np.testing.assert_array_equal(read_mask(path), array)


@settings(max_examples=40, deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]),
        st.tuples(st.integers(2, 9), st.integers(2, 9), st.integers(1, 13)),
        elements=st.integers(0, 100),
    ),
    planar=st.booleans(),
)
def test_every_band_and_bit_of_a_tiff_survives(
    tmp_path_factory, array, planar
):
    path = tmp_path_factory.mktemp('tiff') / 'bands.tif'
    bands = array.squeeze(2) if array.shape[2] == 1 else array
    if planar and bands.ndim == 3:
        tifffile.imwrite(
            path,
            bands.transpose(2, 0, 1),
            photometric='minisblack',
            planarconfig='separate',
        )
    else:
        options = {'planarconfig': 'contig'} if bands.ndim == 3 else {}
        tifffile.imwrite(path, bands, photometric='minisblack', **options)
    image = read_image(path)
    assert image.dtype == array.dtype
    np.testing.assert_array_equal(image, array)
    np.testing.assert_array_equal(read_mask(path), bands)


def test_pages_of_a_tiff_become_channels(tmp_path):
    path = tmp_path / 'pages.tif'
    pages = [Image.fromarray(RGB[..., c]) for c in range(3)]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read_image(path), RGB)


def test_pages_of_two_sizes_are_refused(tmp_path):
    path = tmp_path / 'pages.tif'
    small = Image.fromarray(RGB[:5, :5])
    Image.fromarray(RGB).save(path, save_all=True, append_images=[small])
    with pytest.raises(ValueError, match=r'pages\.tif.*2 images'):
        read_image(path)


def test_reduced_copies_in_a_tiff_are_not_read(tmp_path):
    path = tmp_path / 'overview.tif'
    with tifffile.TiffWriter(path) as file:
        file.write(RGB)
        file.write(RGB[::2, ::2], subfiletype=1)
    np.testing.assert_array_equal(read_image(path), RGB)


def test_white_is_0_tiff_is_turned_as_pillow_does(tmp_path):
    path = tmp_path / 'a.tif'
    tifffile.imwrite(path, RGB[..., 0], photometric='miniswhite')
    with Image.open(path) as image:
        expected = np.asarray(image)
    np.testing.assert_array_equal(read_image(path)[..., 0], expected)
    np.testing.assert_array_equal(read_mask(path), 255 - RGB[..., 0])


@pytest.mark.parametrize('compression', ['tiff_lzw', 'tiff_adobe_deflate'])
def test_compressed_tiff(tmp_path, compression):
    path = tmp_path / 'a.tif'
    path.write_bytes(encode(RGB, 'tiff', compression=compression))
    np.testing.assert_array_equal(read_image(path), RGB)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('suffix', ['jpeg', 'png', 'tiff', 'webp'])
def test_orientation_is_pillows(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f'a.{suffix}'
    path.write_bytes(encode(RGB, suffix, exif=exif))
    # Pillow's and OpenCV's JPEG decoders differ by rounding.
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image), int)
    np.testing.assert_allclose(read_image(path), expected, atol=2)


def segment(marker, data):
    return b'\xff' + marker + (len(data) + 2).to_bytes(2) + data


XMP = (
    b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><rdf:Description '
    b'tiff:Orientation="6"/></x:xmpmeta>'
)
# A colour profile may hold what looks like the start of the pixels.
PROFILE = segment(b'\xe2', b'ICC_PROFILE\0\1\1\xff\xda\0\0')
TURNED = Image.Exif()
TURNED[0x0112] = 6


@pytest.mark.parametrize(
    'header',
    [
        segment(b'\xe1', XMP),
        PROFILE + segment(b'\xe1', TURNED.tobytes()),
        segment(b'\xe1', b'Exif\0\0') + segment(b'\xe1', TURNED.tobytes()),
    ],
    ids=['xmp', 'after a profile', 'second'],
)
def test_an_orientation_is_found_wherever_a_jpeg_has_it(tmp_path, header):
    plain = encode(RGB, 'jpeg')
    (tmp_path / 'a.jpg').write_bytes(plain)
    (tmp_path / 'b.jpg').write_bytes(plain[:2] + header + plain[2:])
    with Image.open(tmp_path / 'b.jpg') as image:
        size = ImageOps.exif_transpose(image).size
    found = read_image(tmp_path / 'b.jpg')
    assert found.shape[1::-1] == size
    expected = read_image(tmp_path / 'a.jpg')
    if size[0] == 24:
        expected = np.rot90(expected, -1)
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=150, deadline=None)
@given(
    labels=hnp.arrays(
        np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20))
    ),
    where=st.floats(0, 1),
    change=st.binary(max_size=3),
    removed=st.integers(0, 3),
)
def test_damaged_labels_are_those_of_pillow_or_an_error(
    tmp_path_factory, labels, where, change, removed
):
    path = tmp_path_factory.getbasetemp() / 'a.png'
    data = encode(labels, 'png')
    at = int(where * len(data))
    data = data[:at] + change + data[at + removed :]
    path.write_bytes(data or b'empty')
    try:
        with Image.open(path) as image:
            expected = np.asarray(image)
    except Exception:
        with pytest.raises(ValueError, match=r'a\.png'):
            read_mask(path)
    else:
        np.testing.assert_array_equal(read_mask(path), expected)


def test_transparent_greys_are_labels(tmp_path):
    labels = RNG.integers(0, 4, (9, 7), dtype=np.uint8)
    path = tmp_path / 'a.png'
    path.write_bytes(encode(labels, 'png', transparency=2))
    np.testing.assert_array_equal(read_mask(path), labels)


@pytest.mark.parametrize('suffix', ['png', 'tiff'])
def test_palette_is_colour_for_images_and_index_for_masks(tmp_path, suffix):
    index = RNG.integers(0, 4, (9, 7), dtype=np.uint8)
    colors = np.array([[9, 8, 7], [255, 0, 0], [0, 255, 0], [1, 2, 3]])
    image = Image.fromarray(index, 'L').convert('P')
    image.putpalette(colors.astype(np.uint8).tobytes())
    image.putdata(index.ravel())
    path = tmp_path / f'a.{suffix}'
    image.save(path)
    np.testing.assert_array_equal(read_image(path), colors[index])
    np.testing.assert_array_equal(read_mask(path), index)


@pytest.mark.parametrize('values', [(0, 255), (0, 1, 2), (0, 128, 255)])
def test_grey_gif_keeps_its_values(tmp_path, values):
    labels = RNG.choice(np.array(values, np.uint8), (9, 7))
    Image.fromarray(labels).save(tmp_path / 'a.gif')
    np.testing.assert_array_equal(read_mask(tmp_path / 'a.gif'), labels)


def test_colour_gif_gives_indices(tmp_path):
    index = RNG.integers(0, 3, (9, 7), dtype=np.uint8)
    image = Image.fromarray(index, 'P')
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(tmp_path / 'a.gif', optimize=False)
    np.testing.assert_array_equal(read_mask(tmp_path / 'a.gif'), index)


@pytest.mark.parametrize('depth', [1, 2, 4])
def test_png_of_few_bits_keeps_the_label_values(tmp_path, depth):
    labels = RNG.integers(0, 2**depth, (5, 16), dtype=np.uint8)
    bits = np.unpackbits(labels[..., None], axis=-1)[..., 8 - depth :]
    rows = np.packbits(bits.reshape(5, -1), axis=-1)
    rows = np.c_[np.zeros(5, np.uint8), rows]

    def chunk(name, data):
        crc = zlib.crc32(name + data)
        return struct.pack('>I', len(data)) + name + data + crc.to_bytes(4)

    header = struct.pack('>IIBBBBB', 16, 5, depth, 0, 0, 0, 0)
    path = tmp_path / 'a.png'
    path.write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(rows.tobytes()))
        + chunk(b'IEND', b'')
    )
    np.testing.assert_array_equal(read_mask(path), labels)


@pytest.mark.parametrize('suffix', ['png', 'jpeg', 'tiff', 'bmp', 'webp'])
@pytest.mark.parametrize('share', [0.3, 0.9])
def test_truncated_files_are_named(tmp_path, suffix, share):
    data = encode(RGB, suffix)
    path = tmp_path / 'broken.img'
    path.write_bytes(data[: int(share * len(data))])
    # OSError is Pillow's: OpenCV 4 would fill JPEG and PNG with grey.
    cause = 'OSError' if suffix in ('png', 'jpeg') else 'Error'
    with pytest.raises(ValueError, match=rf'broken\.img.*truncated.*{cause}'):
        read_image(path)
    with pytest.raises(ValueError, match=r'broken\.img'):
        read_mask(path)


def test_a_jpeg_without_its_last_bytes_is_truncated(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encode(RGB, 'jpeg', exif=exif)
    preview = encode(RGB[:8, :8], 'jpeg')
    # The end mark of a preview in the header must not pass for the image's.
    data = (
        data[:2]
        + b'\xff\xe2'
        + struct.pack('>H', len(preview) + 2)
        + preview
        + data[2:]
    )
    path = tmp_path / 'a.jpg'
    path.write_bytes(data)
    assert read_image(path).shape == RGB.shape
    path.write_bytes(data[:-40])
    with pytest.raises(ValueError, match=r'a\.jpg'):
        read_image(path)


def test_bytes_after_the_end_of_a_jpeg_are_no_damage(tmp_path):
    path = tmp_path / 'a.jpg'
    path.write_bytes(encode(RGB, 'jpeg') + b'\0' * 100)
    assert read_image(path).shape == RGB.shape


@pytest.mark.parametrize(
    ('data', 'message'),
    [(b'', 'empty'), (b'hello', 'decoded'), (None, 'cannot be read')],
)
def test_unreadable_files_are_named(tmp_path, data, message):
    path = tmp_path / 'x.png'
    if data is not None:
        path.write_bytes(data)
    for read in (read_image, read_mask):
        with pytest.raises(ValueError, match=rf'x\.png: .*{message}'):
            read(path)


def test_jpeg_masks_are_refused(tmp_path):
    path = tmp_path / 'mask.png'
    path.write_bytes(encode(RGB[..., 0], 'jpeg'))
    with pytest.raises(ValueError, match='lossy'):
        read_mask(path)


def test_sixteen_bit_colour_masks_are_refused(tmp_path):
    path = str(tmp_path / 'mask.png')
    cv2.imwrite(path, RGB.astype(np.uint16) * 257)
    with pytest.raises(ValueError, match='16-bit colour'):
        read_mask(path)


def test_objects_in_npy_files_are_not_unpickled(tmp_path):
    path = tmp_path / 'a.npy'
    np.save(path, np.array([{'a': 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r'a\.npy.*allow_pickle'):
        read_image(path)
