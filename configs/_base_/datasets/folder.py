"""Your own images and masks: set ``data_root`` and ``classes``.

``data_root`` holds img_dir and ann_dir, each with train and val; masks are
class indices in the order of ``classes``, 255 is ignored. For other layouts,
values and colours see ``upernet_ext.FolderDataset``.
"""

_base_ = 'images.py'
data_root = 'data/CHANGE_ME'
classes = ['background', 'CHANGE_ME']
num_classes = len(classes)
img_scale = (2048, 512)
crop_size = (512, 512)

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

train_set = dict(
    type='upernet_ext.FolderDataset',
    data_root=data_root,
    classes=classes,
    split='train',
    pipeline=train_pipeline,
)
val_set = dict(train_set, split='val', pipeline=test_pipeline, test_mode=True)
train_dataloader = dict(batch_size=4, dataset=train_set)
val_dataloader = dict(dataset=val_set)
test_dataloader = dict(dataset=val_set)
