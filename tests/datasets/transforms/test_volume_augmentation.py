from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.transforms import Compose
from monai.transforms import AdjustContrast
from scipy import ndimage

from upernet_ext.config import load_config
from upernet_ext.datasets.transforms import (
    RandomBrightness,
    RandomContrast,
    RandomGamma,
    RandomGaussianBlur,
    RandomGaussianNoise,
    RandomLowResolution,
    RandomMirror,
)

VOLUMES = Path(__file__).parents[3] / 'configs/_base_/datasets/volumes.py'
INTENSITY = [
    RandomBrightness,
    RandomContrast,
    RandomGamma,
    RandomGaussianBlur,
    RandomGaussianNoise,
    RandomLowResolution,
]
GRIDS = {2: (17, 12), 3: (6, 11, 12)}
both_ranks = pytest.mark.parametrize('rank', [2, 3])


def sample(rank, channels=2):
    rng = np.random.default_rng(rank)
    image = rng.standard_normal((channels, *GRIDS[rank]))
    return dict(img=image.astype(np.float32), channels_first=True)


def run(transform, rank):
    """Return the image before and after, of a transform that always acts."""
    results = sample(rank)
    return results['img'], transform(dict(results))['img']


@both_ranks
def test_noise_is_the_same_in_every_channel(rank):
    np.random.seed(0)
    before, after = run(RandomGaussianNoise(1, std=(2, 2)), rank)
    noise = after - before
    np.testing.assert_allclose(noise[0], noise[1], atol=1e-6)
    # 4 sigma of a standard deviation from so many values.
    spread = 4 * 2 / (2 * noise[0].size) ** 0.5
    assert abs(noise[0].std() - 2) < spread
    assert abs(noise[0].mean()) < 4 * 2 / noise[0].size ** 0.5


@both_ranks
@pytest.mark.parametrize('sigma', [0.5, 0.8, 1.0])
def test_blur_is_scipys(rank, sigma):
    before, after = run(
        RandomGaussianBlur(1, (sigma, sigma), channel_prob=1), rank
    )
    for c in range(2):
        np.testing.assert_allclose(
            after[c],
            ndimage.gaussian_filter(
                before[c], sigma, mode='mirror', radius=round(3 * sigma)
            ),
            atol=1e-6,
        )


def test_axes_are_blurred_apart():
    np.random.seed(0)
    results = dict(img=np.zeros((1, 9, 9), np.float32), channels_first=True)
    results['img'][0, 4, 4] = 1
    image = RandomGaussianBlur(1, channel_prob=1)(results)['img'][0]
    spreads = [
        np.sqrt((image.sum(1 - a) * (np.arange(9) - 4) ** 2).sum())
        for a in (0, 1)
    ]
    assert spreads[0] != pytest.approx(spreads[1], rel=1e-2)
    # Cut off at 3 sigma.
    assert 0.45 < min(spreads) < max(spreads) < 1.0


@both_ranks
def test_brightness_multiplies(rank):
    np.random.seed(0)
    before, after = run(RandomBrightness(1), rank)
    factors = [(after[c] / before[c]).mean() for c in range(2)]
    assert factors[0] != factors[1]
    for c in range(2):
        np.testing.assert_allclose(after[c], before[c] * factors[c], rtol=1e-5)


def test_factors_are_as_often_below_one_as_above():
    transform = RandomGamma(gamma=(0.9, 3.0))
    np.random.seed(0)
    draws = np.array([transform.draw_around_one() for _ in range(2000)])
    assert draws.min() >= 0.9
    assert draws.max() <= 3
    assert abs((draws < 1).mean() - 0.5) < 4 * 0.5 / 2000**0.5
    assert abs(draws[draws < 1].mean() - 0.95) < 0.005
    assert abs(draws[draws > 1].mean() - 2) < 0.08


@both_ranks
@pytest.mark.parametrize('factor', [0.8, 1.2])
def test_contrast_keeps_the_range(rank, factor):
    before, after = run(RandomContrast(1, (factor, factor)), rank)
    for b, a in zip(before, after, strict=True):
        expected = np.clip(
            b.mean() + factor * (b - b.mean()), b.min(), b.max()
        )
        np.testing.assert_allclose(a, expected, atol=1e-5)


@both_ranks
def test_low_resolution_is_nearest_and_linear(rank):
    before, after = run(
        RandomLowResolution(1, (0.5, 0.5), channel_prob=1), rank
    )
    expected = before
    for axis in range(1, rank + 1):
        n = before.shape[axis]
        few = round(n * 0.5)
        # The voxel in whose middle that of a coarse voxel lies.
        kept = np.floor((np.arange(few) + 0.5) * n / few).astype(int)
        coarse = np.take(expected, kept, axis)
        places = (np.arange(n) + 0.5) * few / n - 0.5
        expected = np.apply_along_axis(
            lambda line, at, few=few: np.interp(at, np.arange(few), line),
            axis,
            coarse,
            places,
        )
    np.testing.assert_allclose(after, expected, atol=1e-5)


def test_low_resolution_leaves_a_voxel():
    image = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    transform = RandomLowResolution(1, (0.1, 0.1), channel_prob=1)
    results = transform(dict(img=image, channels_first=True))
    np.testing.assert_array_equal(results['img'], np.full((1, 3, 3), 4))


def test_low_resolution_keeps_the_slices_of_a_stack():
    image = np.random.default_rng(0).standard_normal((1, 3, 20, 20))
    image = image.astype(np.float32)
    transform = RandomLowResolution(1, (0.5, 0.5), channel_prob=1)
    after = transform(dict(img=image))['img']
    for z in range(3):
        alone = transform(dict(img=image[:, z], channels_first=True))['img']
        np.testing.assert_allclose(after[:, z], alone, atol=1e-6)


@both_ranks
@pytest.mark.parametrize('invert', [False, True])
@pytest.mark.parametrize('gamma', [0.7, 1.5])
def test_gamma_is_monais(rank, invert, gamma):
    transform = RandomGamma(1, (gamma, gamma), invert=invert)
    before, after = run(transform, rank)
    theirs = AdjustContrast(gamma, invert_image=invert, retain_stats=True)
    for b, a in zip(before, after, strict=True):
        expected = theirs(torch.from_numpy(b.copy())).numpy()
        np.testing.assert_allclose(a, expected, atol=1e-4)
        assert a.mean() == pytest.approx(b.mean(), abs=1e-5)
        assert a.std() == pytest.approx(b.std(), rel=1e-4)
        assert not np.allclose(a, b, atol=0.05)


@pytest.mark.parametrize('kind', INTENSITY)
def test_shares_of_samples_and_channels(kind):
    np.random.seed(0)
    transform, results = kind(0.3), sample(2, channels=4)
    changed = np.array(
        [
            (transform(dict(results))['img'] != results['img']).any((1, 2))
            for _ in range(400)
        ]
    )
    touched = changed.any(1)
    share = 1.0 if transform.channel_prob == 1 else 1 - 0.5**4
    # 4 sigma.
    assert abs(touched.mean() - 0.3 * share) < 4 * (0.21 / 400) ** 0.5
    channels = changed[touched].mean() * share
    assert abs(channels - transform.channel_prob) < 0.12


@pytest.mark.parametrize('kind', INTENSITY)
@both_ranks
@settings(deadline=None, max_examples=10)
@given(shape=st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_any_shape_and_a_constant_image_stay_finite(kind, rank, shape):
    image = np.full(shape[: rank + 1], 3.0, np.float32)
    image.flags.writeable = False
    results = dict(img=image, channels_first=True)
    with np.errstate(all='raise'):
        found = kind(1)(dict(results))['img']
    assert found.shape == image.shape
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (image == 3).all()
    if kind not in (RandomGaussianNoise, RandomBrightness):
        np.testing.assert_allclose(found, 3, rtol=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    rank=st.sampled_from([2, 3]),
    axes=st.sets(st.integers(-2, 1)),
    seed=st.integers(0, 99),
)
def test_mirrored_image_and_labels_are_the_same_voxels(rank, axes, seed):
    np.random.seed(seed)
    labels = np.arange(np.prod(GRIDS[rank])).reshape(GRIDS[rank])
    image = labels[None].astype(np.float32)
    results = RandomMirror(axes)(
        dict(img=image, gt_seg_map=labels, channels_first=True)
    )
    np.testing.assert_array_equal(results['img'][0], results['gt_seg_map'])
    assert results['img'].flags.c_contiguous
    allowed = {axis % rank for axis in axes}
    for axis in range(rank):
        line = np.moveaxis(results['gt_seg_map'], axis, 0)
        step = line[(1, *[0] * (rank - 1))] - line[(0,) * rank]
        assert axis in allowed or step > 0
        np.testing.assert_array_equal(np.diff(line, axis=0), step)


def test_mirrored_half_of_the_time_and_along_all_axes():
    np.random.seed(0)
    labels = np.arange(8).reshape(2, 2, 2)
    results = dict(img=labels[None].astype(np.float32), gt_seg_map=labels)
    firsts = [
        RandomMirror()(dict(results))['gt_seg_map'][0, 0, 0]
        for _ in range(1600)
    ]
    counts = np.bincount(firsts, minlength=8)
    assert (np.abs(counts - 200) < 4 * 200**0.5).all()


def test_refuses():
    with pytest.raises(ValueError, match=r'case_1.*axes=\(0, 2\).* -2 to 1'):
        RandomMirror((0, 2))(dict(sample(2), img_path='case_1'))
    with pytest.raises(ValueError, match=r'RandomGamma.*\(1\.5, 0\.7\)'):
        RandomGamma(gamma=(1.5, 0.7))
    with pytest.raises(ValueError, match=r'RandomContrast needs .* uint8'):
        RandomContrast()(dict(img=np.zeros((1, 2, 2, 2), np.uint8)))
    with pytest.raises(ValueError, match=r'a\.png: RandomContrast takes vol'):
        RandomContrast()(dict(img=np.zeros((4, 4, 3)), img_path='a.png'))


@both_ranks
def test_nnunets_pipeline_in_a_config(rank):
    """255 survives, labels stay labels, a seed repeats, nothing is lost."""
    cfg = load_config(VOLUMES, variables=dict(spatial_dims=rank))
    transforms = cfg.train_pipeline[1:]
    names = [t['type'].removeprefix('upernet_ext.') for t in transforms]
    assert set(names) >= {kind.__name__ for kind in INTENSITY}
    size = (12, 16, 10)[-rank:]
    transforms[0]['size'] = size
    pipeline = Compose(transforms)
    rng = np.random.default_rng(0)
    shape = (14, 18, 12)
    image = rng.standard_normal((2, *shape)).astype(np.float32)
    labels = rng.choice(np.uint8([0, 1, 2, 255]), shape)
    labels[:, :9] = 255
    foreground = {k: np.argwhere(labels == k) for k in (1, 2)}
    for array in (image, labels):
        array.flags.writeable = False

    def run(seed):
        np.random.seed(seed)
        return pipeline(
            dict(
                img=image,
                gt_seg_map=labels,
                foreground=foreground,
                channels_first=True,
                spacing=(1.0, 2.0, 3.0),
                img_path='case_1',
            )
        )

    packed = [run(seed) for seed in range(40)]
    for item in packed:
        assert item['inputs'].shape == (2, *size)
        assert item['inputs'].dtype == torch.float32
        assert item['inputs'].is_contiguous()
        assert item['inputs'].isfinite().all()
        found = item['data_samples']
        assert found.gt_sem_seg.data.shape == (1, *size)
        assert found.gt_sem_seg.data.dtype == torch.uint8
        values = set(found.gt_sem_seg.data.unique().tolist())
        assert values <= {0, 1, 2, 255}
        assert 255 in values
        assert found.img_shape == size
        assert found.spacing == (1.0, 2.0, 3.0)[-rank:]
    again = run(7)
    assert torch.equal(again['inputs'], packed[7]['inputs'])
    assert len({item['inputs'].sum().item() for item in packed}) > 35
