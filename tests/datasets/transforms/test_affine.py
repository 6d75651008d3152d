import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from upernet_ext.datasets.transforms.affine import (
    rotation_matrix,
    sample_image,
    sample_labels,
    sampling_grid,
    source_box,
)


@st.composite
def views(draw):
    """Return a box's shape, a patch's size, a matrix and a centre."""
    rank = draw(st.sampled_from([2, 3]))
    shape = draw(st.tuples(*[st.integers(1, 9)] * rank))
    size = draw(st.tuples(*[st.integers(1, 7)] * rank))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    matrix = rotation_matrix(rng.uniform(-4, 4, 1 if rank == 2 else 3))
    centre = rng.uniform(-1, shape)
    return shape, size, matrix * rng.uniform(0.5, 2), centre, rng


def scipy_sample(image, matrix, centre, size):
    return ndimage.affine_transform(
        image,
        matrix,
        offset=centre - matrix @ (np.array(size) - 1) / 2,
        output_shape=size,
        order=1,
        mode='grid-constant',
    )


@settings(deadline=None, max_examples=40)
@given(views())
def test_equals_scipy(view):
    shape, size, matrix, centre, rng = view
    image = rng.standard_normal((2, *shape)).astype(np.float32)
    grid = sampling_grid(matrix, centre, size, shape)
    expected = [scipy_sample(c, matrix, centre, size) for c in image]
    # float32 coordinates, of a box of at most 9 voxels.
    np.testing.assert_allclose(
        sample_image(image, grid), expected, rtol=0, atol=2e-5
    )


@settings(deadline=None, max_examples=40)
@given(views(), st.sampled_from([0, 255]))
def test_labels_are_the_largest_one_hot_map(view, fill):
    shape, size, matrix, centre, rng = view
    labels = rng.choice(np.uint8([0, 1, 4, 255]), shape)
    grid = sampling_grid(matrix, centre, size, shape)
    found = sample_labels(labels[None], grid, fill)
    assert found.dtype == np.uint8
    values = np.array([0, 1, 4, 255])
    weights = np.stack(
        [
            scipy_sample((labels == v).astype(float), matrix, centre, size)
            for v in values
        ]
    )
    weights[values == fill] += 1 - weights.sum(0)
    ordered = np.sort(weights, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-4
    expected = values[weights.argmax(0)]
    np.testing.assert_array_equal(found[0][clear], expected[clear])


@settings(deadline=None, max_examples=40)
@given(views())
def test_nothing_outside_of_the_box_is_seen(view):
    _, size, matrix, centre, rng = view
    low, high = source_box(matrix, centre, size)
    box = rng.standard_normal((1, *(high - low))).astype(np.float32)
    wider = np.pad(box, [(0, 0)] + [(2, 2)] * len(size), constant_values=99)
    grids = [
        sampling_grid(matrix, centre - start, size, array.shape[1:])
        for start, array in ((low, box), (low - 2, wider))
    ]
    np.testing.assert_allclose(
        sample_image(box, grids[0]),
        sample_image(wider, grids[1]),
        rtol=0,
        atol=1e-3,
    )


@pytest.mark.parametrize('angles', [[0.7], [0.3, -0.9, 2.0]])
def test_rotations_are_scipys(angles):
    found = rotation_matrix(angles)
    if len(angles) == 1:
        expected = Rotation.from_euler('z', angles[0]).as_matrix()[:2, :2]
    else:
        # The plane of axes 0 and 2 turns the other way round axis 1.
        about = [angles[0], -angles[1], angles[2]]
        expected = Rotation.from_euler('zyx', about).as_matrix()
    np.testing.assert_allclose(found, expected, atol=1e-12)
