import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from upernet_ext.datasets.transforms import CropPatch
from upernet_ext.datasets.transforms.patch import largest_rotation

MOVED = dict(rotation_prob=1.0, scaling_prob=1.0)


def sample(image, labels=None, **more):
    results = dict(img=image, img_path='case_1', **more)
    if image.ndim == 3:
        results['channels_first'] = True
    if labels is not None:
        results['gt_seg_map'] = labels
    return results


def coordinates(shape):
    """An image whose channels say where each voxel lies."""
    return np.indices(shape).astype(np.float32)


@st.composite
def crops(draw):
    """Return the shape of a case, the size of a patch and a seed."""
    rank = draw(st.sampled_from([2, 3]))
    shape = draw(st.tuples(*[st.integers(1, 8)] * rank))
    last = draw(st.sampled_from([rank, 2]))
    size = draw(st.tuples(*[st.integers(1, 8)] * last))
    return shape, size, draw(st.integers(0, 2**16))


@settings(deadline=None, max_examples=60)
@given(crops(), st.sampled_from([0, 255]), st.sampled_from([0.0, 1.0]))
def test_a_patch_is_a_box_of_the_padded_case(crop, pad_label, ratio):
    shape, size, seed = crop
    np.random.seed(seed)
    # No value is 0, which is what lies outside.
    image = 1 + np.arange(np.prod(shape), dtype=np.float64).reshape(1, *shape)
    labels = np.random.randint(0, 3, shape).astype(np.uint8)
    transform = CropPatch(size, ratio, pad_label=pad_label)
    results = transform(sample(image, labels, spacing=(3.0, 2.0, 1.0)))
    patch, found = results['img'], results['gt_seg_map']
    assert patch.shape[1:] == found.shape == results['img_shape'] == size
    assert (patch.dtype, found.dtype) == (np.float32, np.uint8)
    assert patch.flags.c_contiguous
    assert found.flags.c_contiguous
    assert results['channels_first']
    assert results['spacing'] == (3.0, 2.0, 1.0)[-len(size) :]
    inside = patch[0] > 0
    assert (found[~inside] == pad_label).all()
    index = patch[0][inside].astype(int) - 1
    np.testing.assert_array_equal(found[inside], labels.ravel()[index])
    # As much of the case as fits is in the patch, in one piece.
    fits = [min(n, s) for n, s in zip(shape[-len(size) :], size, strict=True)]
    assert inside.sum() == np.prod(fits)
    places = np.unravel_index(index.reshape(fits), shape)
    for axis, place in enumerate(places[-len(size) :]):
        assert (np.diff(place, axis=axis) == 1).all()
    # What is missing is added on both sides alike.
    for axis, (n, s) in enumerate(zip(fits, size, strict=True)):
        first = np.argwhere(inside)[:, axis].min()
        assert first in ((s - n) // 2, (s - n + 1) // 2)


@settings(deadline=None, max_examples=60)
@given(crops(), st.booleans())
def test_image_and_labels_stay_aligned(crop, in_plane):
    """Where the image is the foreground's map, it says which label wins."""
    shape, size, seed = crop
    np.random.seed(seed)
    labels = np.random.randint(0, 2, shape).astype(np.uint8)
    transform = CropPatch(
        size, in_plane=in_plane and len(size) == 3, rotation=180, **MOVED
    )
    results = transform(sample(labels[None].astype(np.float32), labels))
    image, found = results['img'][0], results['gt_seg_map']
    assert results['img_shape'] == image.shape == found.shape == size
    clear = np.abs(image - 0.5) > 1e-4
    np.testing.assert_array_equal(found[clear], image[clear] > 0.5)
    assert set(np.unique(found)) <= {0, 1}


@pytest.mark.parametrize('rank', [2, 3])
def test_a_moved_patch_shows_what_scipy_finds_there(rank):
    """Its corners are data of the case, not padding."""
    shape, size = (60, 61, 62)[:rank], (9, 14, 11)[:rank]
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((1, *shape)).astype(np.float32)
    labels = ndimage.gaussian_filter(noise[0], 3)
    labels = np.digitize(labels, [-0.05, 0, 0.05]).astype(np.uint8)
    labels[:10] = 255
    image = np.concatenate([noise, coordinates(shape)])
    for seed in range(10):
        np.random.seed(seed)
        transform = CropPatch(size, 0, scaling=(0.7, 1.4), **MOVED)
        results = transform(sample(image, labels))
        noise_found, *where = results['img']
        inside = np.all(
            [(w > 0) & (w < n - 1) for w, n in zip(where, shape, strict=True)],
            axis=0,
        )
        assert inside.mean() > 0.6
        where = [w[inside] for w in where]
        expected = ndimage.map_coordinates(noise[0], where, order=1)
        # Coordinates to 60 in float32, slopes of a few a voxel.
        np.testing.assert_allclose(noise_found[inside], expected, atol=1e-3)
        votes = np.stack(
            [
                ndimage.map_coordinates((labels == v) * 1.0, where, order=1)
                for v in (0, 1, 2, 3, 255)
            ]
        )
        ordered = np.sort(votes, axis=0)
        clear = ordered[-1] - ordered[-2] > 1e-3
        best = np.array([0, 1, 2, 3, 255])[votes.argmax(0)]
        found = results['gt_seg_map'][inside]
        np.testing.assert_array_equal(found[clear], best[clear])
        assert found.dtype == np.uint8


@pytest.mark.parametrize(
    ('size', 'limit'), [((9, 9), 180), ((8, 14), 15), ((7, 8, 9), 30)]
)
def test_angles_and_factors_stay_in_their_limits(size, limit):
    """Nnunet's limits; steps of the patch are columns of the matrix."""
    assert largest_rotation(size) == limit
    rank = len(size)
    image = coordinates((80,) * rank)
    turns, factors = [], []
    for seed in range(60):
        np.random.seed(seed)
        where = CropPatch(size, 0, **MOVED)(sample(image))['img']
        middle = tuple(s // 2 for s in size)
        matrix = np.stack(
            [
                where[(slice(None), *middle)]
                - where[
                    (
                        slice(None),
                        *(np.array(middle) - np.eye(rank, dtype=int)[a]),
                    )
                ]
                for a in range(rank)
            ],
            axis=1,
        )
        factor = np.linalg.det(matrix) ** (1 / rank)
        factors.append(factor)
        np.testing.assert_allclose(
            matrix @ matrix.T, factor**2 * np.eye(rank), atol=1e-3
        )
        turns.append(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])))
    assert 0.7 - 1e-3 <= min(factors) < 0.85
    assert 1.2 < max(factors) <= 1.4 + 1e-3
    assert limit / 2 < np.max(np.abs(turns)) <= limit + (rank == 3) * 20
    assert min(turns) < 0 < max(turns)


@pytest.mark.parametrize('size', [(4, 16, 16), (16, 16)])
def test_slices_of_a_stack_are_moved_alike(size):
    assert largest_rotation(size) == 180
    image = coordinates((12, 40, 40))
    for seed in range(5):
        np.random.seed(seed)
        results = CropPatch(size, 0, **MOVED)(sample(image))
        z, y, x = results['img'].reshape(3, -1, 16, 16)
        centre = (slice(None), 8, 8)
        np.testing.assert_allclose(np.diff(z[centre]), 1, rtol=1e-5)
        assert np.ptp(z[:, 6:10, 6:10], axis=(1, 2)).max() < 1e-5
        np.testing.assert_allclose(y, y[:1].repeat(len(y), 0))
        assert np.ptp(x[0, 8]) + np.ptp(y[0, 8]) > 8


@pytest.mark.parametrize('size', [(5, 7, 6), (7, 6)])
@pytest.mark.parametrize('listed', [True, False])
def test_foreground_is_as_frequent_as_asked(size, listed):
    shape = (40, 50, 60)
    labels = np.zeros(shape, np.uint8)
    # Many voxels of one class, one of another: both are as likely.
    labels[30:, 30:, 30:], labels[2, 3, 4] = 1, 2
    labels[0] = 255
    foreground = {k: np.argwhere(labels == k) for k in (1, 2)}
    foreground[3] = np.zeros((0, 3), int)
    more = dict(foreground=foreground) if listed else {}
    image = coordinates(shape)
    transform, hits = CropPatch(size, 0.33), []
    np.random.seed(0)
    count = 1000 if listed else 300
    for _ in range(count):
        results = transform(sample(image, labels, **more))
        assert 'foreground' not in results
        hits.append((results['gt_seg_map'] == 2).any())
    # 4 sigma; by chance the voxel is in less than 1 % of the patches.
    expected = 0.33 / 2
    assert abs(np.mean(hits) - expected - 0.004) < 4 * (0.14 / count) ** 0.5


def test_the_voxel_is_in_the_middle_unless_the_border_is_near():
    image = coordinates((20, 20, 20))
    transform = CropPatch((5, 5, 5), 1)
    results = transform(sample(image, foreground={4: np.int32([[10, 0, 19]])}))
    np.testing.assert_array_equal(results['img'][:, 2, 2, 2], [10, 2, 17])
    assert 'foreground' not in results


def test_ignored_voxels_are_no_foreground():
    labels = np.full((20, 20, 20), 255, np.uint8)
    labels[:4] = 0
    labels[9, 8, 7] = 1
    for _ in range(9):
        results = CropPatch((3, 3, 3), 1)(
            sample(coordinates(labels.shape), labels)
        )
        np.testing.assert_array_equal(results['img'][:, 1, 1, 1], [9, 8, 7])


def test_the_rest_is_centred_on_annotated_voxels():
    image = coordinates((20, 20, 20))
    foreground = {-1: np.array([[9, 9, 9]]), 1: np.array([[4, 4, 4]])}
    np.random.seed(0)
    middles = [
        CropPatch((5, 5, 5), 0.33)(sample(image, foreground=foreground))[
            'img'
        ][0, 2, 2, 2]
        for _ in range(200)
    ]
    assert set(middles) == {4, 9}
    assert 0.2 < np.mean(np.array(middles) == 4) < 0.46


def test_a_case_without_foreground_is_cut_anywhere():
    results = sample(
        coordinates((9, 9, 9)), np.zeros((9, 9, 9), np.uint8), foreground={}
    )
    starts = {
        CropPatch((3, 3, 3), 1)(dict(results))['img'][0, 0, 0, 0]
        for _ in range(100)
    }
    assert starts == set(range(7))


@pytest.mark.parametrize('moved', [{}, MOVED])
def test_only_the_patch_is_read_of_a_mapped_case(tmp_path, moved):
    """A file of 32 GB (of holes) is not read through, and not changed."""
    shape = (2000, 2000, 2000)
    arrays = {}
    for name, kind, grid in (
        ('img', np.float32, (1, *shape)),
        ('gt_seg_map', np.uint8, shape),
    ):
        path = tmp_path / name
        with path.open('wb') as file:
            file.truncate(int(np.prod(grid)) * np.dtype(kind).itemsize)
        arrays[name] = np.memmap(path, kind, 'r', shape=grid)
    results = sample(
        arrays['img'],
        arrays['gt_seg_map'],
        foreground={1: np.array([[1000, 1000, 1000]])},
    )
    results = CropPatch((8, 8, 8), **moved)(results)
    for key in arrays:
        assert type(results[key]) is np.ndarray
        assert results[key].flags.writeable


def test_a_seed_repeats_and_another_differs():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 30, 30, 30))

    def run(seed):
        np.random.seed(seed)
        return CropPatch((8, 8, 8), **MOVED)(sample(image))['img']

    np.testing.assert_array_equal(run(1), run(1))
    assert (run(1) != run(2)).any()


def test_refuses():
    with pytest.raises(ValueError, match=r'size .* got \(3,\)'):
        CropPatch((3,))
    with pytest.raises(ValueError, match=r'scaling .* got \(1\.4, 0\.7\)'):
        CropPatch((3, 3), scaling=(1.4, 0.7))
    with pytest.raises(ValueError, match=r'case_1: .* grid \(4, 4\)'):
        CropPatch((3, 3, 3))(sample(np.zeros((1, 4, 4))))
    with pytest.raises(ValueError, match=r'case_1: .*\(9, 4, 4\).*test_mode'):
        CropPatch((3, 3, 3))(
            sample(np.zeros((1, 4, 4, 4)), np.zeros((9, 4, 4), np.uint8))
        )
    with pytest.raises(ValueError, match=r'a\.png: .*LoadCase.*\(4, 4, 3\)'):
        CropPatch((3, 3))(dict(img=np.zeros((4, 4, 3)), img_path='a.png'))
