"""Your own volumes: set ``data_root``, and ``classes`` where nothing says.

``data_root`` holds a dataset.json of the Medical Segmentation Decathlon, or
a folder of images and one of labels with equal names; labels are class
indices, 0 is background. See ``upernet_ext.VolumeFolderDataset``.
"""

_base_ = 'volumes.py'
data_root = 'data/CHANGE_ME'
classes = None
configuration = '3d_fullres'
fold = 0
train_set = dict(
    type='upernet_ext.VolumeFolderDataset',
    data_root=data_root,
    classes=classes,
    configuration=configuration,
    fold=fold,
    split='train',
    pipeline=_base_.train_pipeline,
)
val_set = dict(
    train_set,
    split='val',
    pipeline=_base_.test_pipeline,
    test_mode=True,
)
train_dataloader = dict(dataset=train_set)
val_dataloader = dict(dataset=val_set)
test_dataloader = dict(dataset=val_set)
