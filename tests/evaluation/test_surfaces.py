"""Against MONAI and scipy's distance transform; and what must not matter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from upernet_ext.evaluation.surfaces import (
    hausdorff95,
    surface_dice,
    surface_distances,
)

SPACINGS = {2: (0.7, 2.0), 3: (5.0, 0.8, 1.3)}


def blobs(seed, rank, size=14):
    """Two overlapping masks of rough outline that touch the border."""
    random = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(random.normal(size=[size] * rank), 1.5)
    other = ndimage.gaussian_filter(random.normal(size=[size] * rank), 1.5)
    return noise > 0, noise + 0.5 * other > 0.05


@pytest.mark.filterwarnings('ignore:.*always_return_as_numpy:FutureWarning')
@pytest.mark.parametrize('rank', [2, 3])
@pytest.mark.parametrize('seed', range(3))
def test_distances_equal_monai(seed, rank):
    prediction, truth = blobs(seed, rank)
    spacing = SPACINGS[rank]
    both = [torch.from_numpy(m)[None, None] for m in (prediction, truth)]
    keywords = dict(include_background=True, spacing=list(spacing))
    hd95 = compute_hausdorff_distance(*both, percentile=95, **keywords)
    nsd = compute_surface_dice(*both, class_thresholds=[1.5], **keywords)
    distances = surface_distances(prediction, truth, spacing)
    # MONAI interpolates percentiles in single precision.
    assert hausdorff95(distances) == pytest.approx(hd95.item(), rel=1e-5)
    assert surface_dice(distances, 1.5) == pytest.approx(nsd.item(), rel=1e-6)
    assert 0 < nsd < 1


@pytest.mark.parametrize('rank', [2, 3])
def test_distances_equal_a_distance_transform(rank):
    prediction, truth = blobs(9, rank)
    edges = [m & ~ndimage.binary_erosion(m) for m in (prediction, truth)]
    far = [
        ndimage.distance_transform_edt(~edge, sampling=SPACINGS[rank])
        for edge in edges
    ]
    distances = surface_distances(prediction, truth, SPACINGS[rank])
    for k in (0, 1):
        np.testing.assert_allclose(distances[k], far[1 - k][edges[k]])


def test_hausdorff_of_boxes_by_hand():
    truth = np.zeros((9, 9, 9), bool)
    truth[2:5, 2:5, 2:5] = True
    prediction = np.roll(truth, 2, axis=0)
    distances = surface_distances(prediction, truth, (2.5, 1.0, 1.0))
    assert hausdorff95(distances) == 5.0
    # Of each surface's 9 + 8 + 9 voxels, a lid is in the other, too.
    assert surface_dice(distances, 0) == 18 / 52
    assert surface_dice(distances, 2.5) == 34 / 52


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 99),
    shift=st.tuples(*[st.integers(0, 5)] * 3),
    factor=st.floats(0.1, 10),
)
def test_only_relative_place_and_scale_matter(seed, shift, factor):
    a, b = blobs(seed, 3, size=7)
    a[0, 0, 0] = b[-1, -1, -1] = True
    spacing = SPACINGS[3]
    here = surface_distances(*(np.pad(m, 1) for m in (a, b)), spacing)
    pad = [(1 + s, 9 - s) for s in shift]
    there = surface_distances(*(np.pad(m, pad) for m in (a, b)), spacing)
    assert hausdorff95(there) == pytest.approx(hausdorff95(here))
    assert surface_dice(there, 2) == surface_dice(here, 2)
    scaled = surface_distances(a, b, [factor * s for s in spacing])
    unscaled = hausdorff95(surface_distances(a, b, spacing))
    assert hausdorff95(scaled) == pytest.approx(factor * unscaled)
    swapped = hausdorff95(surface_distances(b, a, spacing))
    assert swapped == pytest.approx(unscaled)


def test_what_is_ignored_is_no_surface():
    """The truth ends at the ignored half; so does what is compared."""
    truth = np.zeros((12, 12), bool)
    truth[3:9, 3:6] = True
    prediction = np.zeros_like(truth)
    prediction[4:9, 3:6] = True
    ignored = np.zeros_like(truth)
    ignored[:, 6:] = True
    known = surface_distances(prediction, truth, (1, 1), ignored=ignored)
    flipped = surface_distances(
        *(mask[:, ::-1] for mask in (prediction, truth)),
        (1, 1),
        ignored=ignored[:, ::-1],
    )
    for part, other in zip(known, flipped, strict=True):
        np.testing.assert_array_equal(np.sort(part), np.sort(other))
    # Both columns next to what is ignored lose their inner voxels only.
    assert [len(part) for part in known] == [9, 10]
    whole = np.zeros_like(truth)
    whole[3:9, 3:9] = True
    cut = np.zeros_like(truth)
    cut[4:9, 3:9] = True
    full = surface_distances(cut, whole, (1, 1))
    assert hausdorff95(known) == hausdorff95(full)


def test_a_mask_that_ignored_voxels_enclose_keeps_a_surface():
    truth = np.zeros((5, 5), bool)
    truth[2, 2] = True
    distances = surface_distances(truth, truth, (1, 1), ignored=~truth)
    assert hausdorff95(distances) == 0
