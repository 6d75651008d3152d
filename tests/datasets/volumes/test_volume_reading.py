"""Volumes from and into files; the numbers are nibabel's and SimpleITK's."""

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from upernet_ext.datasets.volumes import (
    VOLUME_SUFFIXES,
    check_same_geometry,
    read_image,
    read_volume,
    write_labels,
)

ARRAY = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
# Turned, mirrored and moved; the axes are at right angles, as ITK wants it.
OBLIQUE = np.array(
    [
        [0.0, -0.8, 0.3, 12.5],
        [0.7, 0.0, 0.0, -30.0],
        [0.0, 0.1, 2.4, 7.25],
        [0.0, 0.0, 0.0, 1.0],
    ]
)


def save_oblique(path: Path, array: np.ndarray = ARRAY) -> Path:
    """Write one grid as NIfTI or, through ITK's geometry, as the others."""
    nifti = path.with_name('source.nii')
    image = nibabel.Nifti1Image(array.T, OBLIQUE)
    image.header.set_xyzt_units('mm')
    image.to_filename(nifti if not path.name.startswith('x.nii') else path)
    if not path.name.startswith('x.nii'):
        SimpleITK.WriteImage(SimpleITK.ReadImage(str(nifti)), str(path))
    return path


@pytest.mark.parametrize('suffix', VOLUME_SUFFIXES)
def test_every_file_type_gives_the_same_grid(
    tmp_path: Path, suffix: str
) -> None:
    volume = read_volume(save_oblique(tmp_path / f'x{suffix}'))
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.affine, OBLIQUE, atol=1e-5)
    expected = np.linalg.norm(OBLIQUE[:3, :3], axis=0)[::-1]
    np.testing.assert_allclose(volume.spacing, expected, rtol=1e-5)
    assert volume.shape == (2, 3, 4)


@pytest.mark.parametrize('suffix', VOLUME_SUFFIXES)
def test_labels_are_written_on_the_grid_of_their_image(
    tmp_path: Path, suffix: str
) -> None:
    source = save_oblique(tmp_path / f'x{suffix}')
    labels = (ARRAY % 3).astype(np.int64)
    path = tmp_path / 'new' / f'pred{suffix}'
    write_labels(path, labels, like=source)
    written = read_volume(path)
    np.testing.assert_array_equal(written.array, labels)
    assert written.array.dtype == np.uint8
    check_same_geometry(read_volume(source), written)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_nifti_keeps_its_header_but_not_its_scaling(tmp_path: Path) -> None:
    source = tmp_path / 'x.nii.gz'
    image = nibabel.Nifti1Image(ARRAY.T.astype(np.float32), OBLIQUE)
    image.header['descrip'] = b'scanner'
    image.header['cal_max'] = 900
    image.set_sform(OBLIQUE, code=4)
    image.set_qform(OBLIQUE, code=1)
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, 3)
    image.to_filename(source)
    # nibabel writes the numbers as they are beside the scaling.
    np.testing.assert_array_equal(read_volume(source).array, ARRAY / 2 + 3)
    write_labels(tmp_path / 'pred.nii.gz', ARRAY % 2, like=source)
    written = nibabel.load(tmp_path / 'pred.nii.gz')
    header = written.header
    assert header['descrip'].item() == b'scanner'
    assert (header['sform_code'], header['qform_code']) == (4, 1)
    assert header['cal_max'] == 0
    assert written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), ARRAY.T % 2)


def test_a_failed_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_oblique(tmp_path / 'x.nii.gz')
    target = tmp_path / 'out' / 'pred.nii.gz'

    def fail(image: nibabel.Nifti1Image, path: Path) -> None:
        Path(path).write_bytes(b'half')
        raise OSError('disk full')

    monkeypatch.setattr(nibabel.Nifti1Image, 'to_filename', fail)
    with pytest.raises(OSError, match='disk full'):
        write_labels(target, ARRAY % 2, like=source)
    assert not list(target.parent.iterdir())


def test_channels_in_several_files_or_in_one(tmp_path: Path) -> None:
    both = np.stack([ARRAY, 10 * ARRAY])
    for c, channel in enumerate(both):
        save_oblique(tmp_path / f'x.nii_{c}.nii.gz', channel)
    several = read_image(sorted(tmp_path.glob('x.nii_*')), 2)
    image = nibabel.Nifti1Image(both.T, OBLIQUE)
    image.to_filename(tmp_path / 'both.nii.gz')
    one = read_image([tmp_path / 'both.nii.gz'], 2)
    for volume in (several, one):
        np.testing.assert_array_equal(volume.array, both)
        assert volume.array.dtype == np.float32
        assert volume.shape == (2, 3, 4)
    write_labels(
        tmp_path / 'pred.nii.gz', ARRAY % 2, like=tmp_path / 'both.nii.gz'
    )
    written = read_volume(tmp_path / 'pred.nii.gz')
    np.testing.assert_array_equal(written.array, ARRAY % 2)


def _truncate(path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 99, (20, 20, 20)).astype(np.int16)
    save_oblique(path, noise)
    path.write_bytes(path.read_bytes()[:3000])


def _wrong_bytes(path: Path) -> None:
    path.write_bytes(b'this is no volume')


def _wrong_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(b'nor is this'))


def _empty(path: Path) -> None:
    path.touch()


def _nan(path: Path) -> None:
    array = ARRAY.astype(np.float32)
    array[0, 0, :2] = np.nan, np.inf
    save_oblique(path, array)


def _four_axes(path: Path) -> None:
    nibabel.Nifti1Image(np.ones((4, 3, 2, 5)), OBLIQUE).to_filename(path)


def _two_axes(path: Path) -> None:
    nibabel.Nifti1Image(np.ones((4, 3)), OBLIQUE).to_filename(path)


def _singular(path: Path) -> None:
    affine = OBLIQUE.copy()
    affine[:, 2] = affine[:, 1]
    image = nibabel.Nifti1Image(ARRAY.T, None)
    image.header['sform_code'] = 2
    for row, name in zip(affine, 'xyz', strict=False):
        image.header[f'srow_{name}'] = row
    image.to_filename(path)


def _colours(path: Path) -> None:
    pixel = np.dtype([(c, np.uint8) for c in 'RGB'])
    array = np.zeros((4, 3, 2), pixel)
    nibabel.Nifti1Image(array, OBLIQUE).to_filename(path)


@pytest.mark.parametrize(
    ('suffix', 'spoil', 'message'),
    [
        ('.nii.gz', _truncate, r'unreadable or truncated \(3000 bytes\)'),
        ('.nii', _truncate, 'unreadable or truncated'),
        ('.mha', _truncate, 'unreadable or truncated'),
        ('.nrrd', _truncate, 'unreadable or truncated'),
        ('.nii.gz', _wrong_bytes, 'unreadable'),
        ('.nii', _wrong_bytes, 'unreadable'),
        ('.nii.gz', _wrong_gzip, 'unreadable'),
        ('.mha', _wrong_bytes, 'unreadable'),
        ('.nii.gz', _empty, r'unreadable or truncated \(0 bytes\)'),
        ('.nrrd', _empty, 'unreadable'),
        ('.nii.gz', _nan, '2 voxels are NaN or infinite'),
        ('.nii.gz', _four_axes, r'3 axes.*\(4, 3, 2, 5\).*one file each'),
        ('.nii.gz', _two_axes, r'3 axes.*\(4, 3\)'),
        ('.nii.gz', _singular, 'affine is singular'),
        ('.nii.gz', _colours, 'no plain numbers'),
        ('.nii.gz', lambda path: None, 'no such file'),
        ('.png', _wrong_bytes, r'read from \.nii\.gz'),
    ],
)
def test_an_unusable_file_is_named(
    tmp_path: Path, suffix: str, spoil: callable, message: str
) -> None:
    path = tmp_path / f'x{suffix}'
    spoil(path)
    with pytest.raises(ValueError, match=message) as error:
        read_volume(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda a: a[:, :, 1:], r'shape \(2, 3, 3\) and \(2, 3, 4\)'),
        (lambda a: a, None),
    ],
)
def test_other_shapes_are_refused(
    tmp_path: Path, change: callable, message: str | None
) -> None:
    image = read_volume(save_oblique(tmp_path / 'x.nii.gz'))
    other = read_volume(save_oblique(tmp_path / 'x.nii', change(ARRAY)))
    if message is None:
        check_same_geometry(image, other)
        return
    with pytest.raises(ValueError, match=message) as error:
        check_same_geometry(image, other)
    assert image.path in str(error.value)
    assert other.path in str(error.value)


@pytest.mark.parametrize(
    ('row', 'column', 'change', 'same'),
    [
        (0, 3, 0.05, True),
        (0, 3, 0.5, False),
        (0, 0, 2e-3, True),
        (1, 0, 0.2, False),
    ],
)
def test_grids_are_compared_where_they_are(
    tmp_path: Path, row: int, column: int, change: float, same: bool
) -> None:
    image = read_volume(save_oblique(tmp_path / 'x.nii.gz'))
    affine = OBLIQUE.copy()
    affine[row, column] += change
    path = tmp_path / 'moved.nii.gz'
    nibabel.Nifti1Image(ARRAY.T, affine).to_filename(path)
    if same:
        check_same_geometry(image, read_volume(path))
    else:
        with pytest.raises(ValueError, match='corners are up to'):
            check_same_geometry(image, read_volume(path))


@pytest.mark.parametrize(
    ('name', 'labels', 'message'),
    [
        ('p.nii.gz', ARRAY[:1], r'shape \(1, 3, 4\) do not fit'),
        ('p.nii.gz', ARRAY - 1, '-1 to 22'),
        ('p.mha', ARRAY, r'let the name end in \.nii\.gz'),
    ],
)
def test_labels_that_cannot_be_written(
    tmp_path: Path, name: str, labels: np.ndarray, message: str
) -> None:
    source = save_oblique(tmp_path / 'x.nii.gz')
    with pytest.raises(ValueError, match=message):
        write_labels(tmp_path / name, labels, like=source)


def test_channels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = save_oblique(tmp_path / 'x.nii.gz')
    with pytest.raises(ValueError, match=r'x\.nii\.gz: 1 channel.*has 2'):
        read_image([path], 2)
