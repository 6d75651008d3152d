"""Pascal VOC 2012 with the SBD masks: 21 classes, 10582 / 1449 images.

``data_root`` is VOC2012 of VOCtrainval_11-May-2012.tar, with the masks of SBD
in SegmentationClassAug (mmsegmentation's tools/dataset_converters/voc_aug.py).
"""

_base_ = 'images.py'
dataset_type = 'PascalVOCDataset'
data_root = 'data/VOCdevkit/VOC2012'
num_classes = 21
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
    type=dataset_type,
    data_root=data_root,
    data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
    ann_file='ImageSets/Segmentation/train.txt',
    pipeline=train_pipeline,
)
aug_set = dict(
    train_set,
    data_prefix=dict(
        img_path='JPEGImages', seg_map_path='SegmentationClassAug'
    ),
    ann_file='ImageSets/Segmentation/aug.txt',
)
val_set = dict(
    train_set,
    ann_file='ImageSets/Segmentation/val.txt',
    pipeline=test_pipeline,
)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(type='ConcatDataset', datasets=[train_set, aug_set]),
)
val_dataloader = dict(dataset=val_set)
test_dataloader = val_dataloader
