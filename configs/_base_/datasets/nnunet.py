"""A dataset in nnU-Net's raw format: ``nnunet`` says which.

``dataset`` is its number, name or folder; the first two are looked for in
``$nnUNet_raw``. ``configuration``: ``'3d_fullres'`` or ``'2d'``; ``fold``: 0
to 4, or ``'all'``. ``tools/train.py CONFIG --nnunet 4 3d_fullres 0`` sets the
three, and all else follows from the data.
"""

_base_ = 'volumes.py'
nnunet = dict(dataset=4, configuration='3d_fullres', fold=0)
train_set = dict(
    type='upernet_ext.NnUNetDataset',
    **nnunet,
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
