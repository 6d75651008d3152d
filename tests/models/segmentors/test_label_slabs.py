"""Labels without logits of all classes at full size, against those with."""

import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.structures import SegDataSample
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils._python_dispatch import TorchDispatchMode

from upernet_ext.models import EncoderDecoder
from upernet_ext.models.segmentors import lazy_logits
from upernet_ext.models.segmentors.ensemble import Ensemble
from upernet_ext.models.segmentors.lazy_logits import (
    LazyLogits,
    classes_above,
    largest_class,
    mean_of,
    mean_of_windows,
)
from upernet_ext.models.segmentors.sliding_window import (
    WindowMean,
    gaussian_weight,
    window_slices,
)

DEVICES = [
    'cpu',
    pytest.param(
        'cuda',
        marks=pytest.mark.skipif(
            not torch.cuda.is_available(), reason='needs a GPU'
        ),
    ),
]
both_ranks = pytest.mark.parametrize('spatial_dims', [2, 3])


@pytest.fixture(autouse=True)
def few_classes_at_a_time(monkeypatch) -> None:
    """Two classes of 16 x 16 pixels: everything here takes several chunks."""
    for name in ('CPU_CHUNK_BYTES', 'DEVICE_CHUNK_BYTES'):
        monkeypatch.setattr(lazy_logits, name, 2 * 16 * 16 * 4)


def plain_resize(x: Tensor, size: tuple, align_corners: bool) -> Tensor:
    if tuple(x.shape[2:]) == tuple(size):
        return x
    mode = {2: 'bilinear', 3: 'trilinear'}[len(size)]
    return F.interpolate(x, size, mode=mode, align_corners=align_corners)


# From a head's map to labels ------------------------------------------------


@st.composite
def grids(draw: st.DrawFn) -> tuple[tuple[int, ...], ...]:
    """A low grid, the padded one, what is no padding, and the original."""
    rank = draw(st.integers(2, 3))
    edge = st.integers(1, 40 if rank == 2 else 12)
    low, padded, original = (
        tuple(draw(st.lists(edge, min_size=rank, max_size=rank)))
        for _ in range(3)
    )
    inner = tuple(draw(st.integers(1, size)) for size in padded)
    return low, padded, inner, original


@settings(max_examples=100, deadline=None)
@given(
    grids=grids(),
    classes=st.integers(1, 9),
    images=st.integers(1, 2),
    align_corners=st.booleans(),
    flip=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    kind=st.sampled_from(['random', 'ties', 'nan', 'inf']),
    limit=st.sampled_from([1, 500, 4000, 2**22]),
    seed=st.integers(0, 2**16),
)
def test_labels_are_those_of_all_logits(
    grids, classes, images, align_corners, flip, dtype, kind, limit, seed
) -> None:
    """Two resizes, a crop and a flip, as ``F.interpolate`` and ``argmax``."""
    low, padded, inner, original = grids
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(images, classes, *low, generator=rng)
    if kind == 'ties':
        logits = logits.round()
    elif kind != 'random':
        value = math.nan if kind == 'nan' else -math.inf
        logits[torch.rand(logits.shape, generator=rng) < 0.2] = value
    logits = logits.to(dtype)
    window = tuple(slice(edge) for edge in inner)
    plain = plain_resize(logits, padded, align_corners)[(..., *window)]
    lazy = LazyLogits.of(logits).resize(padded, align_corners).crop(window)
    if flip:
        plain, lazy = plain.flip(-1), lazy.flip([-1])
    plain = plain_resize(plain, original, align_corners)
    lazy = lazy.resize(original, align_corners)
    assert lazy.shape == tuple(plain.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lazy_logits, 'CPU_CHUNK_BYTES', limit)
        labels = largest_class(lazy)
        above = classes_above(lazy, 0.2)
    assert torch.equal(labels.long(), plain.argmax(1, keepdim=True))
    assert torch.equal(above.bool(), plain > 0.2)


@pytest.mark.parametrize('device', DEVICES)
def test_the_lowest_class_wins_and_nan_beats_numbers(device: str) -> None:
    nan = math.nan
    pixels = [[1, 3, 3, 2], [nan, 5, nan, 9], [0, 5, nan, nan], [0, 0, 0, 0]]
    logits = torch.tensor(pixels, device=device).T.reshape(1, 4, 4, 1)
    labels = largest_class(LazyLogits.of(logits))
    assert labels.flatten().tolist() == [1, 0, 2, 0]
    many = torch.randn(1, 300, 32, 40, device=device).round()
    labels = largest_class(LazyLogits.of(many))
    assert labels.max() > 255
    assert torch.equal(labels.long(), many.argmax(1, keepdim=True))


def test_a_batch_is_split_without_computing_the_rest() -> None:
    asked = []

    def compute(images: slice, classes: slice) -> Tensor:
        asked.append((images.start, images.stop))
        return logits[images, classes]

    logits = torch.randn(6, 2, 3, 3)
    whole = LazyLogits((6, 2, 3, 3), logits.dtype, logits.device, 60, compute)
    pairs = list(whole.split(2))
    single = [list(pair.split(1)) for pair in pairs]
    assert torch.equal(single[1][1].full(), logits[3:4])
    assert asked == [(3, 4)]
    assert [pair.num_bytes for pair in pairs] == [20, 20, 20]


@pytest.mark.parametrize('low', [4, 16])
def test_a_mean_keeps_the_smaller(low: int) -> None:
    maps = [torch.randn(1, 3, low, low) for _ in range(3)]
    parts = (LazyLogits.of(m).resize((16, 16)) for m in maps)
    mean = mean_of(parts, 3)
    plain = sum(plain_resize(m, (16, 16), False) for m in maps) / 3
    assert torch.equal(mean.full(), plain)
    assert mean.num_bytes == (3 * 3 * 16 * 4 if low == 4 else 3 * 256 * 4)


# Windows --------------------------------------------------------------------


def plain_mean(
    windows: list, values: list, grid: tuple, weight: Tensor | None
) -> Tensor:
    """One sum of the whole grid, of all classes."""
    total = values[0].new_zeros(*values[0].shape[:2], *grid)
    count = values[0].new_zeros(grid)
    for window, value in zip(windows, values, strict=True):
        if weight is None:
            total[(..., *window)] += value
            count[window] += 1
        else:
            total[(..., *window)].addcmul_(value, weight)
            count[window] += weight
    return total / count


@settings(max_examples=60, deadline=None)
@given(
    rank=st.integers(2, 3),
    data=st.data(),
    steps=st.sampled_from(['clamped', 'even']),
    gaussian=st.booleans(),
    low=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)
def test_bands_and_classes_are_the_plain_mean(
    rank, data, steps, gaussian, low, seed
) -> None:
    edge = st.integers(1, 24 if rank == 2 else 9)
    grid = tuple(data.draw(edge) for _ in range(rank))
    window = tuple(data.draw(st.integers(1, size)) for size in grid)
    stride = tuple(data.draw(st.integers(1, edge)) for edge in window)
    windows = window_slices(grid, window, stride, steps=steps)
    if len(windows) > 100:
        windows = window_slices(grid, window, window, steps=steps)
    rng = torch.Generator().manual_seed(seed)
    maps = [
        torch.randn(2, 3, *[low] * rank, generator=rng, dtype=torch.float64)
        for _ in windows
    ]
    weight = gaussian_weight(window) if gaussian else None
    plain = plain_mean(
        windows, [plain_resize(m, window, False) for m in maps], grid, weight
    )
    mean = WindowMean(
        windows,
        grid,
        weight,
        dtype=torch.float64,
        device=torch.device('cpu'),
        accumulate='auto',
    )
    values = [LazyLogits.of(m).resize(window) for m in maps]
    whole = mean(value.full() for value in values)
    assert torch.equal(whole, plain)
    bands = list(mean.bands(value.full() for value in values))
    firsts = [first for first, _ in bands]
    assert firsts == sorted(firsts)
    assert torch.equal(torch.cat([b for _, b in bands], dim=2), plain)
    lazy = mean_of_windows(values, mean)
    inner = tuple(slice(size // 3, size) for size in grid)
    labels = largest_class(lazy.crop(inner))
    plain = plain[(..., *inner)]
    assert torch.equal(labels.long(), plain.argmax(1, keepdim=True))


def test_a_band_is_decided_before_later_windows_run() -> None:
    windows = window_slices((12, 4), (4, 4), (2, 4))
    mean = WindowMean(
        windows,
        (12, 4),
        None,
        dtype=torch.float32,
        device=torch.device('cpu'),
        accumulate='auto',
    )
    asked = []

    def values():
        for window in windows:
            asked.append(window[0].start)
            yield torch.zeros(1, 1, 4, 4)

    found = [(first, asked[-1]) for first, _ in mean.bands(values())]
    # (first row of the band, start of the last window that has run)
    assert found == [(0, 0), (2, 2), (4, 4), (6, 6), (8, 8), (10, 8)]


# Models ---------------------------------------------------------------------

RESNET = dict(
    type='upernet_ext.ResNet',
    arch='resnet18',
    base_channels=4,
    out_indices=(1, 2, 3, 4),
    norm_cfg=dict(type='GN'),
)


def segmentor(spatial_dims: int, seed: int = 0, **kwargs) -> EncoderDecoder:
    torch.manual_seed(seed)
    model = EncoderDecoder(
        RESNET,
        dict(type='upernet_ext.UPerHead', channels=8, norm_cfg=None),
        **dict(dict(num_classes=11, in_channels=1), **kwargs),
        spatial_dims=spatial_dims,
    )
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def samples(number: int, **metainfo) -> list[SegDataSample]:
    return [SegDataSample(metainfo=dict(metainfo)) for _ in range(number)]


METAINFO = {
    'plain': dict(),
    'padded': dict(img_shape=(29, 27, 23)),
    'resized': dict(img_shape=(29, 27, 23), ori_shape=(35, 20, 30)),
    'case': dict(
        img_shape=(29, 27, 23),
        ori_shape=(40, 41, 42),
        axes=(1, 2, 0),
        crop_box=((1, 30), (2, 29), (5, 28)),
    ),
}
SLIDE = dict(mode='slide', crop_size=(16, 16, 16), overlap=0.5)
TEST_CFGS = {
    'whole': dict(),
    'slide': SLIDE,
    'gaussian': dict(SLIDE, window_weight='gaussian'),
    'logits': dict(SLIDE, tta=dict(flip_axes=(-1, -2), average='logits')),
    'scales': dict(tta=dict(scales=(0.75, 1.0), average='logits')),
    'probabilities': dict(tta=dict(flip_axes=(-1,), average='probabilities')),
}


def cut(cfg: dict, spatial_dims: int) -> dict:
    """Take what a rank needs of sizes for three axes."""
    names = ('crop_size', 'img_shape', 'ori_shape')
    return {
        key: value[:spatial_dims] if key in names else value
        for key, value in cfg.items()
    }


@both_ranks
@pytest.mark.parametrize('kind', ['classes', 'multi_label', 'one'])
@pytest.mark.parametrize('name', TEST_CFGS)
@torch.no_grad()
def test_models_decide_as_with_all_logits(
    name: str, kind: str, spatial_dims: int
) -> None:
    """Which ``keep_logits`` computes first, and other tests check."""
    model = segmentor(
        spatial_dims,
        multi_label=kind == 'multi_label',
        num_classes=1 if kind == 'one' else 11,
        test_cfg=cut(TEST_CFGS[name], spatial_dims),
    )
    images = torch.randn(2, 1, *(32, 28, 24)[:spatial_dims])
    if kind == 'one':
        model.test_cfg.keep_logits = True
        scores = model.predict(images)[0].seg_logits.data
        if name != 'probabilities':
            scores = scores.sigmoid()
        model.decode_head.threshold = scores.median().item()
    seen = set()
    for key, metainfo in METAINFO.items():
        if key == 'case' and spatial_dims == 2:
            continue
        metainfo = cut(metainfo, spatial_dims)
        found = []
        for keep in (False, True):
            model.test_cfg.keep_logits = keep
            found.append(model.predict(images, samples(2, **metainfo)))
        for mine, theirs in zip(*found, strict=True):
            assert 'seg_logits' not in mine
            mine, theirs = mine.pred_sem_seg.data, theirs.pred_sem_seg.data
            assert mine.dtype == theirs.dtype
            assert torch.equal(mine, theirs)
            seen.update(mine.unique().tolist())
    assert len(seen) > 1


class LargestTensor(TorchDispatchMode):
    """Note the bytes of the largest tensor that any operation returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **kwargs or {})
        for tensor in result if isinstance(result, tuple) else [result]:
            if isinstance(tensor, Tensor):
                size = tensor.untyped_storage().nbytes()
                self.largest = max(self.largest, size)
        return result


@both_ranks
@pytest.mark.parametrize(
    ('name', 'ensemble'),
    [*product(['whole', 'slide', 'gaussian', 'logits'], [False, True])],
)
@torch.no_grad()
def test_no_tensor_holds_all_classes_at_full_size(
    name: str, ensemble: bool, spatial_dims: int
) -> None:
    size = (96, 80) if spatial_dims == 2 else (40, 36, 32)
    test_cfg = cut(TEST_CFGS[name], spatial_dims)
    if 'crop_size' in test_cfg:
        test_cfg['crop_size'] = [edge // 2 for edge in size]
    models = [
        segmentor(spatial_dims, seed, num_classes=64, test_cfg=test_cfg)
        for seed in range(1 + ensemble)
    ]
    model = Ensemble(models) if ensemble else models[0]
    image = torch.randn(1, 1, *size)
    full = 64 * math.prod(size) * 4
    with LargestTensor() as seen:
        (result,) = model.predict(image)
    assert seen.largest <= full / 4  # a window
    model.test_cfg.keep_logits = True
    with LargestTensor() as seen:
        (kept,) = model.predict(image)
    assert seen.largest >= full
    assert torch.equal(kept.pred_sem_seg.data, result.pred_sem_seg.data)


@torch.no_grad()
def test_full_size_windows_are_summed_in_bands() -> None:
    """A head whose logits are as large as its windows."""
    model = segmentor(3, test_cfg=dict(SLIDE, window_steps='clamped'))
    model.decode_head.forward = lambda features: torch.sin(
        F.interpolate(features[0][:, :1], (16, 16, 16))
        * torch.arange(1, 12).view(1, 11, 1, 1, 1)
    )
    image = torch.randn(1, 1, 80, 16, 16)
    data = samples(1, img_shape=(77, 16, 15))
    with LargestTensor() as seen:
        (result,) = model.predict(image, data)
    full = 11 * 80 * 16 * 16 * 4
    assert seen.largest <= full * 4 * 16 / 80  # a batch of four windows
    model.test_cfg.keep_logits = True
    with LargestTensor() as seen:
        (kept,) = model.predict(image, data)
    assert seen.largest == full
    assert torch.equal(kept.pred_sem_seg.data, result.pred_sem_seg.data)
