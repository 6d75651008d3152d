"""Brain tissue on slices of the MNI152 template: 4 classes, 1 grey channel.

The template comes with nilearn, nothing is to be downloaded. See
``upernet_ext.MNI152Dataset`` for the slices that are held out.
"""

_base_ = 'images.py'
dataset_type = 'upernet_ext.MNI152Dataset'
num_classes = 4
in_channels = 1
# Twice the template: the head decides at every fourth pixel, and the cortex
# is two or three pixels thick.
img_scale = (466, 394)
crop_size = (256, 256)

# The samples come loaded; files to predict from do not.
load_image = dict(type='upernet_ext.LoadImage', color='grayscale')
train_pipeline = [
    load_image,
    dict(
        type='upernet_ext.RandomResizeCrop',
        scale=img_scale,
        ratio_range=(0.85, 1.15),
        keep_ratio=True,
        crop_size=crop_size,
    ),
    dict(type='upernet_ext.PackInputs'),
]
test_pipeline = [
    load_image,
    dict(type='Resize', scale=img_scale, keep_ratio=True),
    dict(type='upernet_ext.PackInputs'),
]

train_dataloader = dict(
    batch_size=8,
    dataset=dict(type=dataset_type, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        split='val',
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        split='test',
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
