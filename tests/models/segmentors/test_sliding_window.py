"""Windows: nnU-Net's rules, MONAI's results, a plain loop."""

from itertools import product

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from scipy.ndimage import gaussian_filter
from torch import Tensor

from upernet_ext.models.segmentors import sliding_window
from upernet_ext.models.segmentors.predicting_model import (
    PredictingModel,
    filled_test_cfg,
)

both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])


class Windowed(PredictingModel):
    """A model whose result depends on where in a window a pixel lies."""

    out_channels = 2

    def __init__(self, spatial_dims: int, **test_cfg) -> None:
        self.spatial_dims = spatial_dims
        self.test_cfg = filled_test_cfg(
            dict(mode='slide', **test_cfg), spatial_dims
        )
        self.batch_sizes = []

    def encode_decode(self, x: Tensor, metas: object = None) -> Tensor:
        self.batch_sizes.append(len(x))
        ramp = torch.linspace(-1, 1, x.shape[-1], dtype=x.dtype)
        mean = x.mean(tuple(range(2, x.ndim)), keepdim=True)
        return torch.cat([x.sin() + ramp, (x - mean) * ramp.exp()], dim=1)


def starts(size: int, window: int, stride: float, steps: str) -> list[int]:
    boxes = sliding_window.window_slices(
        [size], [window], [stride], steps=steps
    )
    return [box.start for (box,) in boxes]


# Where they lie ------------------------------------------------------------


def test_steps_of_nnunet() -> None:
    """The example in nnU-Net's own comment, and its rounding."""
    assert starts(110, 64, 32, 'even') == [0, 23, 46]
    assert starts(86, 40, 20, 'even') == [0, 15, 31, 46]
    assert starts(40, 40, 20, 'even') == [0]
    # An odd window: 12.5 apart are three windows, 12 would be four.
    stride = sliding_window.overlap_stride([25], 0.5, steps='even')
    assert starts(50, 25, *stride, 'even') == [0, 12, 25]


def test_steps_of_mmseg() -> None:
    assert starts(110, 64, 32, 'clamped') == [0, 32, 46]
    stride = sliding_window.overlap_stride([25], 0.5, steps='clamped')
    assert starts(50, 25, *stride, 'clamped') == [0, 12, 24, 25]
    assert sliding_window.overlap_stride([1], 0.5, steps='clamped') == [1]


@pytest.mark.parametrize('steps', ['even', 'clamped'])
def test_windows_leave_nothing_out(steps: str) -> None:
    for size, window in product(range(1, 30), range(1, 12)):
        stride = sliding_window.overlap_stride([window], 0.3, steps=steps)
        first = starts(size, window, *stride, steps)
        ends = [min(s + window, size) for s in first]
        assert (first[0], ends[-1]) == (0, size)
        assert all(b <= e for b, e in zip(first[1:], ends, strict=False))


# How they count ------------------------------------------------------------


@pytest.mark.parametrize(
    'window', [(5,), (8, 6), (7, 4, 10), (1, 2, 3), (96, 64, 40)]
)
def test_weight_is_nnunets_gaussian(window: tuple) -> None:
    impulse = np.zeros(window)
    impulse[tuple(edge // 2 for edge in window)] = 1
    expected = gaussian_filter(
        impulse, [edge / 8 for edge in window], mode='constant'
    )
    found = sliding_window.gaussian_weight(window)
    np.testing.assert_allclose(found, expected / expected.max(), rtol=1e-12)
    assert found.float().min() > 0


@both_ranks
@pytest.mark.parametrize('overlap', [0.25, 0.5])
@pytest.mark.parametrize('weight', ['uniform', 'gaussian'])
def test_equals_monai_where_the_windows_are_the_same(
    spatial_dims: int, overlap: float, weight: str
) -> None:
    """MONAI's weights are given to it: its own are at least 0.001."""
    window = (8, 12, 4)[:spatial_dims]
    size = (17, 27, 13)[:spatial_dims]
    image = torch.randn(2, 1, *size)
    model = Windowed(
        spatial_dims,
        crop_size=window,
        overlap=overlap,
        window_weight=weight,
        window_steps='clamped',
    )
    importance = (
        sliding_window.gaussian_weight(window).float()
        if weight == 'gaussian'
        else torch.ones(window)
    )
    expected = sliding_window_inference(
        image,
        window,
        4,
        model.encode_decode,
        overlap=overlap,
        roi_weight_map=importance[None, None],
    )
    torch.testing.assert_close(model.slide_inference(image), expected)


@both_ranks
@pytest.mark.parametrize('size', [(19, 30, 11), (5, 30, 3), (4, 7, 3)])
def test_default_of_volumes_is_a_plain_loop(
    spatial_dims: int, size: tuple
) -> None:
    """nnU-Net's windows, in a padded image where it is smaller."""
    size, window = size[:spatial_dims], (8, 12, 5)[:spatial_dims]
    image = torch.randn(1, 1, *size, dtype=torch.float64)
    given = dict(crop_size=window)
    if spatial_dims == 2:
        given['window_weight'] = 'gaussian'
    model = Windowed(spatial_dims, **given)
    found = model.slide_inference(image)
    grid = np.maximum(size, window)
    before = (grid - size) // 2
    inner = tuple(slice(b, b + s) for b, s in zip(before, size, strict=True))
    padded = torch.zeros(1, 1, *grid, dtype=torch.float64)
    padded[(..., *inner)] = image
    total = torch.zeros(1, 2, *grid, dtype=torch.float64)
    count = torch.zeros(*grid, dtype=torch.float64)
    corners = []
    for edge, length in zip(window, grid, strict=True):
        number = int(np.ceil((length - edge) / (edge * 0.5))) + 1
        last = int(length) - edge
        corners.append(np.round(np.linspace(0, last, number)).astype(int))
    for corner in product(*corners):
        for offset in np.ndindex(*window):
            place = tuple(np.add(corner, offset))
            distance = [
                (o - w // 2) / (w / 8)
                for o, w in zip(offset, window, strict=True)
            ]
            count[place] += np.exp(-0.5 * np.square(distance).sum())
        box = tuple(
            slice(c, c + w) for c, w in zip(corner, window, strict=True)
        )
        logits = model.encode_decode(padded[(..., *box)])
        total[(..., *box)] += logits * sliding_window.gaussian_weight(window)
    expected = (total / count)[(..., *inner)]
    torch.testing.assert_close(found, expected)


@both_ranks
def test_mirrored_windows_are_averaged_inside(spatial_dims: int) -> None:
    window = (8, 6, 7)[:spatial_dims]
    image = torch.randn(1, 1, *[8, 6, 7][:spatial_dims])
    model = Windowed(spatial_dims, crop_size=window)
    flips = [(), (-1,), (-2,), (-2, -1)]
    expected = sum(
        model.encode_decode(image.flip(axes)).flip(axes) for axes in flips
    )
    found = model.slide_inference(image, flips=flips)
    torch.testing.assert_close(found, expected / 4)


# How they are summed -------------------------------------------------------


@both_ranks
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_sums_are_at_least_float32(
    spatial_dims: int, dtype: torch.dtype
) -> None:
    image = torch.randn(1, 1, *[9] * spatial_dims).to(dtype)
    model = Windowed(spatial_dims, crop_size=[4] * spatial_dims)
    wide = torch.promote_types(dtype, torch.float32)
    assert model.slide_inference(image).dtype == wide


@pytest.mark.parametrize('window_batch', [1, 4, 100])
def test_windows_run_in_batches(window_batch: int) -> None:
    image = torch.randn(2, 1, 9, 9, 9)
    model = Windowed(3, crop_size=(4, 5, 9), window_batch=window_batch)
    model.slide_inference(image)
    number = 4 * 3  # windows an axis: 4, 3 and 1
    assert sum(model.batch_sizes) == 2 * number
    assert max(model.batch_sizes) == 2 * min(window_batch, number)


@pytest.mark.parametrize('accumulate', ['auto', 'device', 'cpu'])
@pytest.mark.parametrize(
    'device',
    [
        'cpu',
        pytest.param(
            'cuda',
            marks=pytest.mark.skipif(
                not torch.cuda.is_available(), reason='needs a GPU'
            ),
        ),
    ],
)
def test_where_sums_live(accumulate: str, device: str) -> None:
    place, cpu = torch.device(device), torch.device('cpu')
    small, huge = (
        sliding_window.accumulator_device(accumulate, place, num_bytes)
        for num_bytes in (2**10, 2**50)
    )
    assert small == (cpu if accumulate == 'cpu' else place)
    assert huge == (place if accumulate == 'device' else cpu)


# What is refused -----------------------------------------------------------


@pytest.mark.parametrize(
    ('test_cfg', 'message'),
    [
        (dict(stride=(2, 2)), 'needs crop_size'),
        (
            dict(crop_size=(4, 4), stride=(2, 2), overlap=0.5),
            'say the same thing twice',
        ),
        (
            dict(crop_size=(4, 4), window_weight='gauss'),
            "window_weight must be 'uniform' or 'gaussian', got 'gauss'",
        ),
        (
            dict(crop_size=(4, 4), window_steps='odd'),
            "window_steps must be 'clamped' or 'even'",
        ),
        (
            dict(crop_size=(4, 4), accumulate='gpu'),
            "accumulate must be 'auto' or 'device' or 'cpu', got 'gpu'",
        ),
    ],
)
def test_wrong_settings_are_named(test_cfg: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Windowed(2, **test_cfg)


@pytest.mark.parametrize(
    ('test_cfg', 'message'),
    [
        (dict(crop_size=(4, 4), overlap=1.0), r'overlap=1.0 must lie in'),
        (dict(crop_size=(4, 4, 4)), 'need one number for each axis'),
        (dict(crop_size=(4, 4), stride=(5, 4)), 'at most crop_size'),
    ],
)
def test_windows_that_leave_pixels_out(test_cfg: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Windowed(2, **test_cfg).slide_inference(torch.zeros(1, 1, 9, 9))


def test_images_default_to_mmseg_and_volumes_to_nnunet() -> None:
    image, volume = (filled_test_cfg(None, rank) for rank in (2, 3))
    assert (image.window_weight, image.window_steps) == ('uniform', 'clamped')
    assert (volume.window_weight, volume.window_steps) == ('gaussian', 'even')
    assert image.overlap == volume.overlap == 0.5
