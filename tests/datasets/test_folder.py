import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.dataset import pseudo_collate
from mmengine.registry import DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

from upernet_ext.datasets import DataError, FolderDataset
from upernet_ext.datasets.palette import generate_palette
from upernet_ext.registry import DATASETS

RNG = np.random.default_rng(0)
PIPELINE = [
    dict(type='upernet_ext.LoadImage'),
    dict(type='upernet_ext.LoadMask'),
    dict(type='upernet_ext.PackInputs'),
]


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == '.npy':
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


def fill(
    root,
    names=('a', 'b', 'c'),
    *,
    images='img_dir/train',
    masks='ann_dir/train',
    values=(0, 1),
):
    """Write one image and one mask a name; return the masks."""
    arrays = {}
    for name in names:
        image = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        save(root / images / f'{name}.png', image)
        arrays[name] = RNG.choice(np.array(values, np.uint8), (6, 8))
        save(root / masks / f'{name}.png', arrays[name])
    return arrays


def build(root, classes=('zero', 'one'), **options):
    options.setdefault('pipeline', PIPELINE)
    return DATASETS.build(
        dict(
            type='upernet_ext.FolderDataset',
            data_root=str(root),
            classes=classes,
            **options,
        )
    )


def labels_of(dataset, index=0):
    return dataset[index]['data_samples'].gt_sem_seg.data.numpy()


@pytest.mark.parametrize(
    ('images', 'masks', 'split'),
    [
        ('img_dir/val', 'ann_dir/val', 'val'),
        ('images/val', 'masks/val', 'val'),
        ('images/val', 'labels/val', 'val'),
        ('val/images', 'val/annotations', 'val'),
        ('val/imgs', 'val/masks', 'val'),
        ('images', 'labels', None),
    ],
)
def test_common_layouts_are_found(tmp_path, images, masks, split):
    arrays = fill(tmp_path, images=images, masks=masks)
    dataset = build(tmp_path, split=split)
    assert len(dataset) == 3
    for i, name in enumerate('abc'):
        np.testing.assert_array_equal(labels_of(dataset, i)[0], arrays[name])
        path = dataset[i]['data_samples'].img_path
        assert path == str(tmp_path / images / f'{name}.png')


def test_explicit_folders_and_suffixes(tmp_path):
    for city in ('x', 'y'):
        save(
            tmp_path / f'left/{city}/1_left.png',
            np.zeros((4, 4, 3), np.uint8),
        )
        save(
            tmp_path / f'fine/{city}/1_ids.png',
            np.full((4, 4), city == 'y', np.uint8),
        )
        save(
            tmp_path / f'fine/{city}/1_color.png',
            np.full((4, 4), 9, np.uint8),
        )
    dataset = build(
        tmp_path,
        img_dir='left',
        ann_dir='fine',
        img_suffix='_left.png',
        seg_map_suffix='_ids.png',
    )
    assert [labels_of(dataset, i).max() for i in range(2)] == [0, 1]


@settings(max_examples=25, deadline=None)
@given(
    stems=st.sets(
        st.from_regex(r'[a-z]{1,3}(/[a-z][a-z.]{0,2}[a-z])?', fullmatch=True),
        min_size=1,
        max_size=6,
    ),
    data=st.data(),
)
def test_pairing_is_by_path_without_suffix(tmp_path_factory, stems, data):
    root = tmp_path_factory.mktemp('pairs')
    suffixes = st.sampled_from(['.png', '.PNG', '.bmp', '.tif', '.npy'])
    for number, stem in enumerate(sorted(stems)):
        image = np.full((2, 2), number, np.uint8)
        for folder in ('images', 'masks'):
            path = root / folder / (stem + data.draw(suffixes))
            save(path, image)
    dataset = build(root, tuple('abcdef'), split=None, check_classes=False)
    assert len(dataset) == len(stems)
    for sample in dataset:
        number = int(sample['inputs'][0, 0, 0])
        assert sample['data_samples'].gt_sem_seg.data.unique() == number


def test_missing_folder_says_what_was_looked_for(tmp_path):
    (tmp_path / 'pictures').mkdir()
    with pytest.raises(
        ValueError, match=r'holds pictures.*img_dir.*/val with.*ann_dir'
    ):
        build(tmp_path, split='val')
    with pytest.raises(ValueError, match=r'nowhere.*does not exist'):
        build(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match=r'img_dir .*none missing'):
        build(tmp_path, img_dir='none', ann_dir='pictures')
    with pytest.raises(ValueError, match=r'ann_dir .*none missing'):
        build(tmp_path, img_dir='pictures', ann_dir='none')


def test_half_of_the_folders_is_refused(tmp_path):
    fill(tmp_path)
    with pytest.raises(ValueError, match='needs its ann_dir'):
        build(tmp_path, img_dir='img_dir/train')
    with pytest.raises(ValueError, match='needs its img_dir'):
        build(tmp_path, ann_dir='ann_dir/train')


def test_unsplit_folders_are_not_taken_for_a_split(tmp_path):
    """They would be training and validation data at once."""
    fill(tmp_path, images='images', masks='masks')
    with pytest.raises(ValueError, match='split=None'):
        build(tmp_path, split='val')


def test_missing_pairs_are_counted_and_named_both_ways(tmp_path):
    fill(tmp_path, ['a', 'b', 'c', 'd', 'e', 'f'])
    for name in 'abcd':
        (tmp_path / f'ann_dir/train/{name}.png').unlink()
    (tmp_path / 'img_dir/train/f.png').unlink()
    with pytest.raises(ValueError, match='4 of 5 images have no') as caught:
        build(tmp_path)
    message = str(caught.value)
    assert 'img_dir/train/c.png, ...' in message
    assert '1 of 2 masks have no image' in message
    assert 'ann_dir/train/f.png' in message


def test_two_images_of_one_stem_are_named(tmp_path):
    fill(tmp_path)
    save(tmp_path / 'img_dir/train/b.jpg', np.zeros((6, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r'b\..* and .*b\..* same name'):
        build(tmp_path)


def test_empty_split(tmp_path):
    fill(tmp_path)
    (tmp_path / 'img_dir/val').mkdir()
    (tmp_path / 'ann_dir/val').mkdir()
    with pytest.raises(ValueError, match=r'no images in .*img_dir/val.*empty'):
        build(tmp_path, split='val')


def test_hidden_files_are_no_images(tmp_path):
    fill(tmp_path)
    (tmp_path / 'img_dir/train/._a.png').write_bytes(b'macOS')
    assert len(build(tmp_path)) == 3


def test_prediction_needs_no_masks(tmp_path):
    fill(tmp_path, images='images/test')
    pipeline = [PIPELINE[0], PIPELINE[2]]
    dataset = build(tmp_path, split='test', test_mode=True, pipeline=pipeline)
    assert 'gt_sem_seg' not in dataset[0]['data_samples']
    with pytest.raises(ValueError, match='found the images'):
        build(tmp_path, split='test')
    with pytest.raises(DataError, match=r'a\.png: .*no mask'):
        build(tmp_path, split='test', test_mode=True)[0]


@pytest.mark.parametrize('classes', [['cell'], ['background', 'cell']])
def test_0_255_masks_are_not_read_in_silence(tmp_path, classes):
    arrays = fill(tmp_path, values=(0, 255))
    with pytest.raises(
        ValueError, match=r'\(cell\) never.*label_map=\{0: 0, 255: 1\}'
    ):
        build(tmp_path, classes)
    dataset = build(tmp_path, classes, label_map={0: 0, 255: 1})
    np.testing.assert_array_equal(labels_of(dataset)[0], arrays['a'] == 255)


def test_label_map_may_have_gone_through_a_command_line(tmp_path):
    fill(tmp_path, values=(0, 255))
    dataset = build(tmp_path, label_map={'0': '0', '255': '1'})
    assert dataset.metainfo['label_map'] == {0: 0, 255: 1}


def test_a_class_that_never_occurs_is_named_with_the_values(tmp_path):
    fill(tmp_path, values=(0, 2, 255))
    with pytest.raises(
        ValueError, match=r'1 \(b\), 3 \(d\) never.* 0, 2, 255; remove'
    ):
        build(tmp_path, ['a', 'b', 'c', 'd'])
    for options in (dict(check_classes=False), dict(test_mode=True)):
        assert len(build(tmp_path, list('abcd'), **options)) == 3


def test_the_check_stops_once_every_class_was_seen(tmp_path):
    fill(tmp_path)
    (tmp_path / 'ann_dir/train/c.png').write_bytes(b'not read by the check')
    dataset = build(tmp_path)
    with pytest.raises(DataError, match=r'ann_dir/train/c\.png'):
        dataset[2]


def test_wrong_label_is_found_at_the_start(tmp_path):
    fill(tmp_path, values=(0, 2))
    with pytest.raises(ValueError, match=r'a\.png.* 2 \('):
        build(tmp_path)


def test_reduce_zero_label(tmp_path):
    arrays = fill(tmp_path, values=(0, 1, 2))
    dataset = build(tmp_path, reduce_zero_label=True)
    expected = np.where(arrays['a'] == 0, 255, arrays['a'].astype(int) - 1)
    np.testing.assert_array_equal(labels_of(dataset)[0], expected)
    assert dataset[0]['data_samples'].reduce_zero_label is True


@pytest.mark.parametrize('classes', [['fg'], ['bg', 'fg']])
def test_palette_reads_colour_masks_and_draws(tmp_path, classes):
    palette = [(10, 20, 30), (200, 0, 7), (9, 9, 9)]
    arrays = fill(tmp_path, values=(0, 1, 2))
    for name, labels in arrays.items():
        colors = np.array(palette, np.uint8)[labels]
        save(tmp_path / f'ann_dir/train/{name}.png', colors)
    dataset = build(tmp_path, classes, palette=palette)
    expected = np.where(arrays['a'] == 2, 255, arrays['a'])
    np.testing.assert_array_equal(labels_of(dataset)[0], expected)
    drawn = [list(color) for color in palette[:2]][-len(classes) :]
    assert dataset.metainfo['palette'] == drawn


def test_multi_label(tmp_path):
    mask = RNG.integers(0, 2, (6, 8, 4), dtype=np.uint8)
    mask[..., 2] = 0
    save(tmp_path / 'images/train/a.png', np.zeros((6, 8), np.uint8))
    save(tmp_path / 'masks/train/a.npy', mask)
    with pytest.raises(ValueError, match=r'class 2 \(c\) never'):
        build(tmp_path, list('abcd'), multi_label=True)
    mask[0, 0, 2] = 1
    save(tmp_path / 'masks/train/a.npy', mask)
    dataset = build(tmp_path, list('abcd'), multi_label=True)
    np.testing.assert_array_equal(labels_of(dataset), np.moveaxis(mask, -1, 0))
    assert dataset.metainfo['multi_label'] is True


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(classes=None), 'needs classes'),
        (dict(classes='road'), 'needs classes'),
        (dict(classes=['a', 'b', 'a']), r"\['a'\] occur more than once"),
        (dict(classes=list(range(256))), '256 classes'),
        (dict(palette=[(1, 2, 3)]), r'each of the 2 classes'),
        (dict(multi_label=True, reduce_zero_label=True), 'leave'),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        build(tmp_path, **options)


def test_classes_may_come_as_metainfo(tmp_path):
    fill(tmp_path)
    dataset = FolderDataset(
        tmp_path, metainfo=dict(classes=['a', 'b']), lazy_init=True
    )
    assert dataset.metainfo['classes'] == ('a', 'b')
    assert len(dataset) == 3


def test_generated_colours_are_stable_and_different():
    names = [f'class {i}' for i in range(255)]
    colors = generate_palette(names)
    assert colors[:9] == generate_palette(names[:9])
    assert len({tuple(c) for c in colors}) == 255
    near = np.array(colors[:20], float)
    distance = np.linalg.norm(near[:, None] - near[None], axis=-1)
    assert distance[~np.eye(20, dtype=bool)].min() > 25
    assert generate_palette(['background', 'x'])[0] == [0, 0, 0]


@pytest.mark.slow
def test_the_error_in_a_worker_names_the_image(tmp_path):
    fill(tmp_path)
    loader = DataLoader(
        build(tmp_path), num_workers=1, collate_fn=pseudo_collate
    )
    assert len(list(loader)) == 3
    path = tmp_path / 'img_dir/train/b.png'
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match=r'img_dir/train/b\.png: LoadImage'):
        list(loader)


def test_the_error_of_any_transform_names_the_image(tmp_path):
    fill(tmp_path)
    pipeline = [*PIPELINE[:2], dict(type='Resize', scale=(0, 4))]
    dataset = build(tmp_path, pipeline=pipeline)
    with pytest.raises(DataError, match=r'a\.png: Resize failed'):
        dataset[0]


def test_two_dimensional_training_pipeline_of_mmseg(tmp_path):
    fill(tmp_path)
    pipeline = [
        *PIPELINE[:2],
        dict(
            type='RandomResize',
            scale=(16, 12),
            ratio_range=(0.5, 2.0),
            keep_ratio=True,
        ),
        dict(type='RandomCrop', crop_size=(5, 5), cat_max_ratio=0.75),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
        PIPELINE[2],
    ]
    dataset = build(tmp_path, pipeline=pipeline)
    for sample in dataset:
        assert sample['inputs'].shape == (3, 5, 5)
        assert sample['inputs'].dtype == torch.uint8
        meta = sample['data_samples']
        assert meta.gt_sem_seg.data.unique().tolist() in ([0, 1], [0], [1])
        assert meta.ori_shape == (6, 8)
        assert meta.img_shape == (5, 5)
        assert {'flip', 'scale_factor'} <= set(meta.metainfo_keys())
