import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mmcv.transforms import LoadImageFromFile, Pad
from mmengine.registry import DefaultScope
from mmseg.datasets import ADE20KDataset
from mmseg.datasets.transforms import (
    LoadAnnotations,
    RandomCrop,
    RandomFlip,
    RandomRotate,
    Resize,
)
from PIL import Image

from upernet_ext.datasets.transforms import LoadImage, LoadMask, PackInputs
from upernet_ext.datasets.transforms.labels import to_labels

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (24, 31, 3), dtype=np.uint8)


def save(path, array):
    if path.suffix == '.npy':
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)
    return str(path)


def load_image(path, *args, **options):
    return LoadImage(*args, **options)(dict(img_path=str(path)))


def load_mask(path, *args, **options):
    sample = dict(img_path='image.png', seg_map_path=str(path))
    return LoadMask(*args, **options)(sample)['gt_seg_map']


def test_colour_images_are_mmcvs(tmp_path):
    for suffix in ('png', 'jpg'):
        path = save(tmp_path / f'a.{suffix}', RGB)
        expected = LoadImageFromFile()(dict(img_path=path))
        results = load_image(path)
        np.testing.assert_array_equal(results['img'], expected['img'])
        assert results['img_shape'] == expected['img_shape']
        assert results['ori_shape'] == expected['ori_shape']
        assert results['num_channels'] == 3


def test_grey_and_colour_convert_into_each_other(tmp_path):
    grey = save(tmp_path / 'grey.png', RGB[..., 0])
    color = save(tmp_path / 'color.png', RGB)
    np.testing.assert_array_equal(load_image(grey)['img'], RGB[..., [0, 0, 0]])
    np.testing.assert_array_equal(
        load_image(grey, 'grayscale')['img'], RGB[..., :1]
    )
    # ITU-R BT.601; OpenCV rounds to the nearest whole number.
    np.testing.assert_allclose(
        load_image(color, 'grayscale')['img'][..., 0],
        RGB @ [0.299, 0.587, 0.114],
        atol=0.51,
    )


@pytest.mark.parametrize('color', ['color', 'grayscale'])
def test_only_an_opaque_alpha_is_dropped(tmp_path, color):
    plain = load_image(save(tmp_path / 'a.png', RGB), color)['img']
    alpha = np.full((24, 31, 1), 255, np.uint8)
    path = save(tmp_path / 'b.png', np.concatenate([RGB, alpha], -1))
    np.testing.assert_array_equal(load_image(path, color)['img'], plain)
    alpha[3, :2] = 254
    rgba = np.concatenate([RGB, alpha], -1)
    path = save(tmp_path / 'b.png', rgba)
    with pytest.raises(ValueError, match=r'b\.png: 2 pixels.*transparent'):
        load_image(path, color)
    np.testing.assert_array_equal(load_image(path, 'unchanged')['img'], rgba)


def test_sixteen_bits_come_on_the_scale_of_eight(tmp_path):
    path = save(tmp_path / 'a.png', RGB[..., 0].astype(np.uint16) * 257)
    image = load_image(path, 'unchanged')['img']
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[..., 0], RGB[..., 0], rtol=1e-6)


def test_value_range_becomes_0_to_255_and_clips(tmp_path):
    values = np.array([[-2000, -1000, 0, 1000, 3000]], np.int16)
    path = save(tmp_path / 'ct.npy', values)
    image = load_image(path, 'unchanged', value_range=(-1000, 1000))['img']
    np.testing.assert_allclose(image[0, :, 0], [0, 0, 127.5, 255, 255])


def test_types_without_a_scale_need_a_value_range(tmp_path):
    path = save(tmp_path / 'a.npy', np.linspace(0, 1, 20).reshape(4, 5))
    with pytest.raises(ValueError, match=r'a\.npy: float64.*value_range'):
        load_image(path)


def test_not_a_number_is_named(tmp_path):
    values = np.ones((4, 5), np.float32)
    values[1, 2] = np.nan
    path = save(tmp_path / 'a.npy', values)
    with pytest.raises(ValueError, match=r'a\.npy: 1 values are NaN'):
        load_image(path, value_range=(0, 1))


def test_bands_keep_their_order_and_do_not_become_colours(tmp_path):
    bands = RNG.integers(0, 256, (9, 8, 7), dtype=np.uint8)
    path = save(tmp_path / 'a.npy', bands)
    results = load_image(path, 'unchanged')
    np.testing.assert_array_equal(results['img'], bands)
    assert results['num_channels'] == 7
    with pytest.raises(ValueError, match=r'a\.npy: .*7 channels'):
        load_image(path)


def test_an_image_in_memory_is_bgr_and_not_read():
    results = LoadImage()(dict(img=RGB))
    np.testing.assert_array_equal(results['img'], RGB)


def test_a_volume_is_no_image(tmp_path):
    path = save(tmp_path / 'a.npy', np.zeros((1, 4, 5, 6), np.uint8))
    with pytest.raises(ValueError, match=r'\(1, 4, 5, 6\)'):
        load_image(path, 'unchanged')


@pytest.mark.parametrize(
    'options', [dict(color='rgb'), dict(value_range=(5, 5))]
)
def test_wrong_image_options_are_refused(options):
    with pytest.raises(ValueError, match='LoadImage'):
        LoadImage(**options)


@given(
    mask=hnp.arrays(
        st.sampled_from([np.uint8, np.uint16, np.int32, np.float32]),
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.integers(0, 5),
    ),
    label_map=st.permutations([0, 1, 2, 3, 4, 255]),
)
def test_label_map_goes_there_and_back(mask, label_map):
    forward = dict(enumerate(label_map))
    backward = {v: k for k, v in forward.items()}
    mapped = to_labels(mask, 'a', num_classes=5, label_map=forward)
    back = to_labels(mapped, 'a', num_classes=6, label_map=backward)
    np.testing.assert_array_equal(back, mask)


@pytest.mark.parametrize('reduce_zero_label', [False, True])
@pytest.mark.parametrize('label_map', [None, {0: 1, 1: 255, 2: 0, 3: 2}])
def test_masks_are_mmsegs(tmp_path, reduce_zero_label, label_map):
    top = 5 if reduce_zero_label else 4
    mask = RNG.integers(0, top, (24, 31), dtype=np.uint8)
    mask[2] = 255
    path = save(tmp_path / 'a.png', mask)
    sample = dict(
        seg_map_path=path,
        label_map=label_map,
        reduce_zero_label=reduce_zero_label,
        seg_fields=[],
    )
    expected = LoadAnnotations()(dict(sample, seg_fields=[]))
    results = LoadMask(4)(sample)
    np.testing.assert_array_equal(
        results['gt_seg_map'], expected['gt_seg_map']
    )
    assert results['gt_seg_map'].dtype == np.uint8
    assert results['seg_fields'] == ['gt_seg_map']


@pytest.mark.parametrize(
    ('value', 'dtype'), [(7, np.uint8), (300, np.uint16), (-1, np.int16)]
)
def test_labels_out_of_range_are_named_and_counted(tmp_path, value, dtype):
    mask = np.zeros((6, 5), dtype)
    mask[1, :3] = value
    mask[2] = 255
    path = save(tmp_path / 'a.npy', mask)
    with pytest.raises(
        ValueError, match=rf'a\.npy.* {value} \(3 pixels\).*0\.\.3.*label_map'
    ):
        load_mask(path, 4)


def test_classes_from_1_get_a_hint():
    mask = np.array([[1, 2, 4]], np.uint8)
    with pytest.raises(ValueError, match='reduce_zero_label=True'):
        to_labels(mask, 'a.png', num_classes=4)
    labels = to_labels(mask, 'a.png', num_classes=4, reduce_zero_label=True)
    np.testing.assert_array_equal(labels, [[0, 1, 3]])


def test_a_value_that_label_map_leaves_out_is_an_error():
    mask = np.array([[0, 255, 3]], np.uint8)
    with pytest.raises(ValueError, match=r'a\.png.* 3 \(1 pixels\)'):
        to_labels(mask, 'a.png', num_classes=5, label_map={0: 0, 255: 1})


def test_one_class_has_the_labels_0_and_1():
    mask = np.array([[0, 1, 255]], np.uint8)
    np.testing.assert_array_equal(to_labels(mask, 'a', num_classes=1), mask)
    with pytest.raises(ValueError, match=r' 2 \(1 pixels\)'):
        to_labels(mask + np.uint8(1), 'a', num_classes=1)


def test_fractions_are_no_labels():
    with pytest.raises(ValueError, match=r'a\.npy: 2 pixels.*0\.5'):
        to_labels(np.array([[0, 0.5, np.nan]]), 'a.npy')


@given(
    labels=hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.integers(0, 3),
    ),
    order=st.permutations(range(4)),
)
def test_colours_become_their_index(labels, order):
    palette = np.array(
        [[0, 0, 1], [0, 1, 0], [255, 255, 255], [255, 254, 255]]
    )[list(order)]
    mask = palette[labels].astype(np.uint8)
    found = to_labels(mask, 'a', num_classes=3, palette=palette.tolist())
    # The fourth colour is beyond the three classes: ignored.
    np.testing.assert_array_equal(found, np.where(labels == 3, 255, labels))


def test_unknown_colours_are_named_and_counted():
    mask = np.zeros((4, 5, 3), np.uint8)
    mask[1, :2] = 10, 20, 30
    with pytest.raises(ValueError, match=r'a\.png.*\(10, 20, 30\) \(2 pix'):
        to_labels(mask, 'a.png', palette=[(0, 0, 0), (255, 0, 0)])


def test_colours_without_a_palette_are_refused_but_grey_is_read():
    grey = RNG.integers(0, 4, (5, 6), dtype=np.uint8)
    mask = np.repeat(grey[..., None], 3, -1)
    np.testing.assert_array_equal(to_labels(mask, 'a', num_classes=4), grey)
    mask[0, 0, 0] += 1
    with pytest.raises(ValueError, match='palette='):
        to_labels(mask, 'a', num_classes=4)


def test_mask_of_another_size_is_named(tmp_path):
    path = save(tmp_path / 'a.png', np.zeros((5, 6), np.uint8))
    sample = dict(img_path='b.jpg', seg_map_path=path, ori_shape=(5, 7))
    with pytest.raises(ValueError, match=r'a\.png: .*5 x 6.*b\.jpg is 5 x 7$'):
        LoadMask(2)(sample)
    with pytest.raises(ValueError, match='EXIF'):
        LoadMask(2)(dict(sample, ori_shape=(6, 5)))


def test_sample_without_a_mask_is_named():
    with pytest.raises(ValueError, match=r'b\.jpg.*no mask'):
        LoadMask(2)(dict(img_path='b.jpg'))


def test_a_mask_in_memory_is_checked():
    sample = dict(img_path='slice', gt_seg_map=np.full((4, 4), 9, np.uint8))
    with pytest.raises(ValueError, match=r'slice.* 9 \(16 pixels\)'):
        LoadMask(2)(sample)


def pack_labels(results):
    results.setdefault('img', np.zeros((*results['gt_seg_map'].shape, 3)))
    sample = PackInputs()(results)['data_samples']
    return sample.gt_sem_seg.data.numpy()


@given(
    hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=3, max_dims=3, max_side=9),
        elements=st.sampled_from([0, 1, 255]),
    )
)
def test_multi_label_masks_survive_the_index(mask):
    sample = dict(img_path='a', gt_seg_map=mask)
    results = LoadMask(mask.shape[2], multi_label=True)(sample)
    assert results['gt_seg_map'].shape == mask.shape[:2]
    np.testing.assert_array_equal(
        pack_labels(results), np.moveaxis(mask, -1, 0)
    )


def test_more_label_sets_than_8_bits_hold():
    sets = (np.arange(1024)[:, None] >> np.arange(10)) & 1
    mask = sets.reshape(32, 32, 10).astype(np.uint8)
    results = LoadMask(10, multi_label=True)(dict(gt_seg_map=mask))
    assert 255 not in results['gt_seg_map']
    np.testing.assert_array_equal(
        pack_labels(results), np.moveaxis(mask, -1, 0)
    )


@pytest.mark.parametrize('channels', [1, 2, 5])
def test_multi_label_masks_pass_mmsegs_transforms(tmp_path, channels):
    """Each channel moves as a mask of its own, and padding is ignored."""
    mask = RNG.integers(0, 2, (24, 31, channels), dtype=np.uint8)
    image = save(tmp_path / 'a.png', RGB)
    path = save(tmp_path / 'a.npy', mask)
    transforms = [
        Resize(scale=(40, 30), keep_ratio=False),
        RandomFlip(prob=1.0),
        RandomRotate(prob=1.0, degree=30, pad_val=0, seg_pad_val=255),
        RandomCrop((25, 20), cat_max_ratio=0.9),
        Pad(size=(32, 32), pad_val=dict(img=0, seg=255)),
    ]

    def run(load, **sample):
        np.random.seed(1)
        results = load(LoadImage()(dict(img_path=image, **sample)))
        for transform in transforms:
            results = transform(results)
        return pack_labels(results)

    together = run(LoadMask(channels, multi_label=True), seg_map_path=path)
    assert together.shape == (channels, 32, 32)
    assert set(np.unique(together)) == {0, 1, 255}
    transforms[3] = RandomCrop((25, 20))
    together = run(LoadMask(channels, multi_label=True), seg_map_path=path)
    for k in range(channels):
        alone = run(LoadMask(1), gt_seg_map=mask[..., k])
        np.testing.assert_array_equal(together[k], alone[0])


def test_multi_label_needs_one_channel_a_class():
    mask = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match=r'a\.npy.*one channel a class'):
        to_labels(mask, 'a.npy', num_classes=4, multi_label=True)
    mask[0, 0, 0] = 2
    with pytest.raises(ValueError, match=r'a\.npy.* 2 \(1 pixels\)'):
        to_labels(mask, 'a.npy', num_classes=3, multi_label=True)


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture
def ade20k(tmp_path):
    for folder, split in (('images', 'training'), ('annotations', 'training')):
        (tmp_path / folder / split).mkdir(parents=True)
    save(tmp_path / 'images/training/a.jpg', RGB)
    mask = RNG.integers(0, 151, (24, 31), dtype=np.uint8)
    save(tmp_path / 'annotations/training/a.png', mask)
    return tmp_path, mask


def build_ade20k(root, **options):
    return ADE20KDataset(
        data_root=str(root),
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'
        ),
        pipeline=[
            dict(type='upernet_ext.LoadImage'),
            dict(type='upernet_ext.LoadMask', num_classes=150),
            dict(type='RandomResize', scale=(62, 48), ratio_range=(1, 1)),
            dict(type='Resize', scale=(31, 24)),
            dict(type='upernet_ext.PackInputs'),
        ],
        **options,
    )


def test_mmsegs_ade20k_reads_through_ours(ade20k):
    root, mask = ade20k
    sample = build_ade20k(root)[0]['data_samples']
    expected = np.where(mask == 0, 255, mask.astype(int) - 1)
    np.testing.assert_array_equal(sample.gt_sem_seg.data[0], expected)
    assert sample.reduce_zero_label is True


def test_mmsegs_ade20k_names_the_file_of_a_wrong_label(ade20k):
    root, mask = ade20k
    mask[0, 0] = 151
    save(root / 'annotations/training/a.png', mask)
    with pytest.raises(ValueError, match=r'training/a\.png.* 151 \(1 pixels'):
        build_ade20k(root)[0]


def test_classes_chosen_from_mmsegs_dataset_are_renumbered(ade20k):
    root, mask = ade20k
    names = ADE20KDataset.METAINFO['classes']
    chosen = (names[7], names[3])
    sample = build_ade20k(root, metainfo=dict(classes=chosen))[0]
    expected = np.full(mask.shape, 255)
    expected[mask == 8], expected[mask == 4] = 0, 1
    np.testing.assert_array_equal(
        sample['data_samples'].gt_sem_seg.data[0], expected
    )
