"""Cityscapes: 19 classes, 2975 / 500 images of 2048 x 1024.

``data_root`` holds leftImg8bit and gtFine, with the ``labelTrainIds`` masks
that cityscapesScripts writes: https://www.cityscapes-dataset.com
"""

_base_ = 'images.py'
dataset_type = 'CityscapesDataset'
data_root = 'data/cityscapes'
num_classes = 19
img_scale = (2048, 1024)
crop_size = (512, 1024)

train_pipeline = [
    dict(type='upernet_ext.LoadImage'),
    dict(type='upernet_ext.LoadMask', num_classes=num_classes),
    dict(
        type='upernet_ext.RandomResizeCrop',
        scale=img_scale,
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
        crop_size=crop_size,
        cat_max_ratio=0.75,
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='upernet_ext.PhotoMetricDistortion'),
    dict(type='upernet_ext.PackInputs'),
]
test_pipeline = [
    dict(type='upernet_ext.LoadImage'),
    dict(type='Resize', scale=img_scale, keep_ratio=True),
    # The labels keep the size of the file.
    dict(type='upernet_ext.LoadMask', num_classes=num_classes),
    dict(type='upernet_ext.PackInputs'),
]

train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='leftImg8bit/train', seg_map_path='gtFine/train'
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='leftImg8bit/val',
            seg_map_path='gtFine/val',
        ),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
