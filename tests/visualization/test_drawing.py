import numpy as np
import pytest
import torch
from PIL import Image

from upernet_ext.datasets.palette import generate_palette
from upernet_ext.visualization import (
    draw_comparison,
    draw_overlay,
    save_label_maps,
    save_picture,
    to_label_picture,
    to_picture,
)

CLASSES = ('sky', 'road', 'Straße')
PALETTE = ((200, 0, 0), (0, 200, 0), (0, 0, 200))


@pytest.fixture
def image():
    return np.full((40, 60, 3), (100, 60, 20), np.uint8)


@pytest.fixture
def labels():
    """Left third 0, middle 1, right 2."""
    return np.repeat(np.arange(3), 20)[None].repeat(40, axis=0)


def draw(image, labels, **kwargs):
    kwargs = dict(classes=CLASSES, palette=PALETTE, legend=False) | kwargs
    return draw_overlay(image, labels, **kwargs)


def test_colours_are_mixed_by_opacity(image, labels):
    picture = draw(image, labels, opacity=0.25)
    assert picture.shape == image.shape
    assert picture.dtype == np.uint8
    # 0.75 x image + 0.25 x colour, away from the borders of regions
    assert picture[20, 10].tolist() == [125, 45, 15]
    assert picture[20, 30].tolist() == [75, 95, 15]
    assert picture[20, 50].tolist() == [75, 45, 65]
    np.testing.assert_array_equal(draw(image, labels, opacity=0.0), image)
    solid = draw(image, labels, opacity=1.0)
    np.testing.assert_array_equal(solid, np.asarray(PALETTE)[labels])


def test_borders_of_regions_stand_out(image, labels):
    picture = draw(image, labels, opacity=0.25)
    colour, image_colour = np.array(PALETTE[0]), image[0, 0]
    expected = np.round(0.6 * image_colour + 0.4 * colour)
    np.testing.assert_array_equal(picture[20, 19], expected)


def test_ignored_pixels_are_grey_stripes_whatever_the_classes(image, labels):
    ignored = labels.copy()
    ignored[:, :20] = 255
    picture = draw(image, ignored, opacity=1.0)[:, :20]
    assert set(map(tuple, picture.reshape(-1, 3))) == {(90,) * 3, (230,) * 3}
    assert len(np.unique(picture[0, :, 0])) == 2
    np.testing.assert_array_equal(
        draw(image, ignored)[:, 20:], draw(image, labels)[:, 20:]
    )


def test_background_of_one_class_is_bare(image, labels):
    one = (labels == 1).astype(int)
    one[:, 40:] = 255
    picture = draw(image, one, classes=['cell'], palette=[(0, 0, 250)])
    np.testing.assert_array_equal(picture[:, :19], image[:, :19])
    assert picture[20, 30].tolist() == [50, 30, 135]
    assert picture[20, 50].tolist() not in (
        image[0, 0].tolist(),
        [50, 30, 135],
    )


def test_overlapping_classes_are_blended(image):
    planes = np.zeros((2, 40, 60), int)
    planes[0, :, :40] = planes[1, :, 20:] = 1
    planes[:, 30:] = 255
    picture = draw(
        image, planes, classes=CLASSES[:2], palette=PALETTE[:2], opacity=1.0
    )
    assert picture[10, 10].tolist() == [200, 0, 0]
    assert picture[10, 30].tolist() == [100, 100, 0]
    assert picture[10, 50].tolist() == [0, 200, 0]
    assert picture[35, 10].tolist() in ([90] * 3, [230] * 3)


def test_legend_shows_what_occurs_beside_the_image(image, labels):
    two = np.minimum(labels, 1)
    picture = draw(image, two, legend=True, opacity=1.0)
    np.testing.assert_array_equal(
        picture[:40, :60], draw(image, two, opacity=1.0)
    )
    panel = {tuple(c) for c in picture[:, 60:].reshape(-1, 3).tolist()}
    assert {PALETTE[0], PALETTE[1]} <= panel
    assert PALETTE[2] not in panel
    # text: names of the same swatches give other panels
    other = draw(
        image, two, legend=True, opacity=1.0, classes=('sky', 'sea', 'x')
    )
    assert other.shape != picture.shape or (other != picture).any()


def test_legend_of_many_classes_fits_in_columns():
    image = np.zeros((200, 30, 3), np.uint8)
    labels = np.arange(150).repeat(40).reshape(200, 30)
    names = [f'class {i}' for i in range(150)]
    picture = draw_overlay(image, labels, classes=names)
    panel = {tuple(c) for c in picture[:, 30:].reshape(-1, 3).tolist()}
    assert {tuple(c) for c in generate_palette(names)} <= panel
    assert picture.shape[0] == 200


def test_comparison_has_three_panels(image, labels):
    flipped = labels[:, ::-1].copy()
    picture = draw_comparison(
        image,
        labels,
        flipped,
        classes=CLASSES,
        palette=PALETTE,
        opacity=1.0,
        legend=False,
    )
    height, width = picture.shape[:2]
    assert height > 256  # enlarged seven times, and a title
    row = picture[height - 100]
    at = [
        row[round(width * (k + f) / 3)] for k in range(3) for f in (0.2, 0.8)
    ]
    colours = [tuple(c) for c in np.array(at).tolist()]
    assert colours[:2] == [(100, 60, 20)] * 2
    assert colours[2:] == [PALETTE[0], PALETTE[2], PALETTE[2], PALETTE[0]]
    two = draw_comparison(image, None, labels, classes=CLASSES, legend=False)
    assert two.shape[1] < 0.7 * width


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(labels=np.zeros((3, 3), int)), r'size \(3, 3\) do not fit'),
        (dict(labels=np.full((40, 60), 3)), r'labels are 0\.\.2'),
        (dict(labels=np.zeros((2, 40, 60), int)), '2 planes for 3 classes'),
        (dict(palette=PALETTE[:2]), '3 classes need as many colours, got 2'),
        (dict(opacity=1.5), 'opacity must be in'),
    ],
)
def test_what_does_not_fit_is_refused(image, labels, change, message):
    labels = change.pop('labels', labels)
    with pytest.raises(ValueError, match=message):
        draw(image, labels, **change)


def test_input_becomes_an_rgb_picture():
    bgr = torch.zeros(3, 2, 2, dtype=torch.uint8)
    bgr[0] = 10
    assert to_picture(bgr)[0, 0].tolist() == [0, 0, 10]
    grey = torch.full((1, 2, 2), 7.4)
    assert to_picture(grey)[0, 0].tolist() == [7, 7, 7]
    bands = torch.arange(5.0).view(5, 1, 1).expand(5, 2, 2)
    assert to_picture(bands)[0, 0].tolist() == [0, 1, 2]
    wide = torch.tensor([[-1000.0, 0.0], [500.0, 1000.0]])[None]
    assert to_picture(wide)[..., 0].tolist() == [[0, 128], [191, 255]]


def test_middle_slice_of_a_volume_is_shown():
    volume = torch.zeros(1, 5, 4, 4)
    volume[:, 2] = 9
    assert (to_picture(volume) == 9).all()
    assert (to_label_picture(volume.long()) == 9).all()
    assert to_label_picture(torch.zeros(1, 3, 4)).shape == (3, 4)
    assert to_label_picture(torch.zeros(2, 3, 4)).shape == (2, 3, 4)


def test_files_hold_rgb_and_labels(image, labels, tmp_path):
    save_picture(tmp_path / 'new' / 'image.png', image)
    with Image.open(tmp_path / 'new' / 'image.png') as written:
        np.testing.assert_array_equal(np.asarray(written), image)
    path = tmp_path / 'maps' / '8.png'
    save_label_maps(path, labels, classes=CLASSES, palette=PALETTE)
    with Image.open(path) as written:
        np.testing.assert_array_equal(np.asarray(written), labels)
        rgb = np.asarray(written.convert('RGB'))
    np.testing.assert_array_equal(rgb, np.asarray(PALETTE)[labels])
    many = labels + 298
    save_label_maps(tmp_path / '16.png', many, classes=['x'] * 301)
    with Image.open(tmp_path / '16.png') as written:
        np.testing.assert_array_equal(np.asarray(written), many)


def test_made_up_colours_differ():
    colours = np.array(generate_palette([str(i) for i in range(150)]), float)
    distance = np.abs(colours[:, None] - colours).sum(-1)
    assert distance[np.triu_indices(150, 1)].min() > 0
    near = np.abs(np.diff(colours, axis=0)).sum(1)
    assert near.min() > 150
