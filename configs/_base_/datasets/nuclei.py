"""Nuclei in fluorescence microscopy: 267 / 67 grey images of 256 x 256.

The 256 x 256 images of the Data Science Bowl 2018 (BBBC038, CC0), in
img_dir and ann_dir, each with train and val. Grey is read as three equal
channels, so that weights of colour images fit.
"""

_base_ = 'images.py'
data_root = 'data/nuclei256'
classes = ['background', 'nucleus']
num_classes = len(classes)
img_scale = (256, 256)
crop_size = (256, 256)

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
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='RandomFlip', prob=0.5, direction='vertical'),
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
test_dataloader = dict(dataset=val_set)
