import numpy as np
import pytest
import torch

from upernet_ext.datasets.volumes.resampling import resample_image
from upernet_ext.structures import CaseGeometry
from upernet_ext.visualization import (
    draw_comparison,
    draw_volume,
    source_image,
)

CLASSES = ('background', 'left', 'right')
PALETTE = [[0, 0, 0], [255, 0, 0], [0, 0, 255]]
STYLE = dict(classes=CLASSES, palette=PALETTE)
SHAPE = (40, 60, 80)


def blank(*shape):
    return np.zeros(shape or SHAPE, np.float32)


def labels_at(z, y, x, label=1, shape=SHAPE, half=2):
    labels = np.zeros((1, *shape), np.uint8)
    labels[
        0,
        z - half : z + half + 1,
        y - half : y + half + 1,
        x - half : x + half + 1,
    ] = label
    return labels


def colored(picture, channel):
    """Rows and columns where a colour rules."""
    picture = picture.astype(int)
    others = [c for c in range(3) if c != channel]
    rest = picture[..., others].max(-1)
    return np.argwhere(picture[..., channel] - rest > 60)


def panel(picture, index, columns=320):
    """Cut a panel of so many columns out: 80 enlarged fourfold."""
    left = index * (columns + max(2, len(picture) // 100))
    return picture[:, left : left + columns]


def test_planes_are_those_of_the_2d_drawing():
    """Axial, coronal, sagittal from the top, the last row of each on top."""
    rng = np.random.default_rng(0)
    image = rng.random((8, 260, 270), np.float32)
    image[0], image[1] = -9, 9  # not on the planes
    truth = labels_at(4, 90, 200, shape=image.shape)
    prediction = labels_at(5, 90, 201, 2, shape=image.shape)
    prediction[0, 4, :10] = 255
    actual = draw_volume(image, truth, prediction, **STYLE)

    def mosaic(volume):
        cut = [volume[4], volume[:, 90], volume[:, :, 200]]
        rows = []
        for plane in cut:
            padded = np.zeros((len(plane) + 2, 270), plane.dtype)
            padded[:-2, : plane.shape[1]] = plane[::-1]
            rows.append(padded)
        return np.concatenate(rows)[:-2]

    values = [image[4], image[:, 90], image[:, :, 200]]
    values = np.concatenate([v.ravel() for v in values])
    low, high = np.percentile(values, (0.5, 99.5))
    grey = ((image - low) * (255 / (high - low))).clip(0, 255).round()
    grey = mosaic(grey.astype(np.uint8))

    def planes(labels):
        field = mosaic(labels[0])
        masks = np.stack([field == 1, field == 2]).astype(np.uint8)
        masks[:, field == 255] = 255
        return masks

    expected = draw_comparison(
        np.stack([grey] * 3, -1),
        planes(truth),
        planes(prediction),
        classes=CLASSES[1:],
        palette=PALETTE[1:],
    )
    np.testing.assert_array_equal(actual, expected)


def test_pixels_are_square():
    """5 mm slices: a plane across them is five times as high."""
    shape = (8, 40, 50)
    cube = labels_at(4, 20, 25, shape=shape, half=2)
    picture = draw_volume(
        blank(*shape), None, cube, spacing=(5.0, 1.0, 1.0), **STYLE
    )
    rows = colored(panel(picture, 1, columns=50 * 6), 0)
    gaps = np.flatnonzero(np.diff(np.unique(rows[:, 0])) > 1)
    parts = np.split(np.unique(rows[:, 0]), gaps + 1)
    heights = [len(part) for part in parts]
    assert heights == [5 * 6, 25 * 6, 25 * 6]


def test_planes_go_through_the_truth_then_the_prediction_then_the_middle():
    here, there = labels_at(5, 50, 70), labels_at(30, 10, 10, 2)
    both = draw_volume(blank(), here, there, **STYLE)
    assert len(colored(panel(both, 1), 0))
    assert not len(colored(panel(both, 2), 2))
    ignored = np.where(labels_at(35, 5, 5, 255) == 255, 255, here)
    np.testing.assert_array_equal(
        colored(panel(draw_volume(blank(), ignored, there, **STYLE), 1), 0),
        colored(panel(both, 1), 0),
    )
    nothing = np.zeros_like(here)
    only = draw_volume(blank(), nothing, there, **STYLE)
    assert len(colored(panel(only, 2), 2))
    image = blank()
    image[20, 30, 40] = 1
    middle = draw_volume(image, nothing, nothing, **STYLE)
    assert middle.max() == 255


def test_z_points_up():
    """A label in the high half of z is in the upper half of its plane."""
    low = labels_at(20, 30, 40)
    high = low.copy()
    high[0, 30:36, 25:36, 35:46] = 2
    picture = draw_volume(blank(), low, high, **STYLE)
    blue = colored(panel(picture, 2), 2)[:, 0]
    red = colored(panel(picture, 1), 0)[:, 0]
    # The axial plane, the first, does not cut through the high one.
    below = red[0] + 35 * 4
    assert blue.min() > below
    assert blue.mean() < red[red > below].mean()


def test_classes_that_overlap_and_a_single_class_are_drawn():
    one = labels_at(20, 30, 40)
    single = draw_volume(
        blank(), None, one, classes=['vessel'], palette=[[255, 0, 0]]
    )
    assert len(colored(single, 0))
    planes = np.concatenate([one, labels_at(20, 30, 44)])
    two = draw_volume(
        blank(), None, planes, classes=CLASSES[1:], palette=PALETTE[1:]
    )
    assert len(colored(two, 0))
    assert len(colored(two, 2))


def test_colours_are_made_up_as_those_of_all_classes():
    from upernet_ext.datasets.palette import generate_palette

    labels = labels_at(20, 30, 40)
    made_up = draw_volume(blank(), None, labels, classes=CLASSES)
    palette = generate_palette(CLASSES)
    given = draw_volume(
        blank(), None, labels, classes=CLASSES, palette=palette
    )
    np.testing.assert_array_equal(made_up, given)


def test_the_input_goes_back_to_the_grid_of_the_file():
    """Voxels that were not resampled are where they came from."""
    rng = np.random.default_rng(0)
    source = rng.random((6, 7, 8)).astype(np.float32)
    axes, box = (2, 0, 1), ((1, 8), (2, 6), (0, 5))
    window = tuple(slice(*ends) for ends in box)
    cropped = source.transpose(axes)[window]
    geometry = dict(ori_shape=(6, 7, 8), axes=axes, crop_box=box)
    inputs = torch.from_numpy(np.stack([cropped, -cropped]))
    back = source_image(inputs, geometry, source.shape)
    inside = np.zeros_like(source, bool).transpose(axes)
    inside[window] = True
    inside = inside.transpose(np.argsort(axes))
    np.testing.assert_allclose(
        back[inside], source[inside] - cropped.min(), atol=1e-6
    )
    assert (back[~inside] == 0).all()
    shape = tuple(2 * size for size in cropped.shape)
    coarse = resample_image(
        cropped[None], shape, spacing=(2, 2, 2), new_spacing=(1, 1, 1)
    )
    resampled = source_image(
        torch.from_numpy(np.asarray(coarse)), geometry, source.shape
    )
    assert np.corrcoef(resampled[inside], source[inside])[0, 1] > 0.9
    assert CaseGeometry.from_metainfo(geometry).box_shape == (7, 4, 5)


def test_an_image_of_another_grid_is_refused():
    with pytest.raises(ValueError, match='source_image'):
        draw_volume(blank(3, 4, 5), None, labels_at(9, 9, 9), **STYLE)
