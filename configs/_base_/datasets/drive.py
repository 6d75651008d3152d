"""DRIVE: vessels in 20 / 20 fundus photographs of 565 x 584.

``data_root`` is the download of https://drive.grand-challenge.org/ as it is,
unpacked: ``training/images/21_training.tif`` with
``training/1st_manual/21_manual1.gif``, and the same in ``test``. The 20 test
images are used to choose and to report, as in mmsegmentation. All pixels
count, those outside the field of view too.
"""

_base_ = 'images.py'
data_root = 'data/DRIVE'
classes = ['vessel']
num_classes = len(classes)
img_scale = (565, 584)
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
    img_dir='training/images',
    ann_dir='training/1st_manual',
    img_suffix='_training.tif',
    seg_map_suffix='_manual1.gif',
    label_map={0: 0, 255: 1},
    pipeline=train_pipeline,
)
val_set = dict(
    train_set,
    img_dir='test/images',
    ann_dir='test/1st_manual',
    img_suffix='_test.tif',
    pipeline=test_pipeline,
    test_mode=True,
)
train_dataloader = dict(batch_size=2, dataset=train_set)
val_dataloader = dict(dataset=val_set)
test_dataloader = dict(dataset=val_set)
val_evaluator = dict(iou_metrics=['mIoU', 'mDice'])
test_evaluator = val_evaluator
