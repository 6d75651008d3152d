"""ADE20K scene parsing: 150 classes, 20210 / 2000 images.

``data_root`` is ADEChallengeData2016.zip, unpacked:
http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip
"""

_base_ = 'images.py'
dataset_type = 'ADE20KDataset'
data_root = 'data/ade/ADEChallengeData2016'
num_classes = 150
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

train_dataloader = dict(
    batch_size=2,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='images/training', seg_map_path='annotations/training'
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(
            img_path='images/validation',
            seg_map_path='annotations/validation',
        ),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
