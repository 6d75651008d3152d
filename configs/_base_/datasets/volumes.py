"""What datasets of volumes share: how patches are made, loaders and metric.

The numbers are those of the Hippocampus of the Medical Segmentation
Decathlon. A run takes its own from its data (channels, classes, patch, batch,
strides: see ``upernet_ext.datasets.volumes.plan_dataset``), so only what is to
differ from that is set again.
"""

spatial_dims = 3
in_channels = 1
num_classes = 3
multi_label = False
# Voxels of a patch, in training and of the windows in testing.
crop_size = (40, 56, 40)
# Which axes each of a backbone's five halvings halves: thick slices late.
halvings = ((2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2))
batch_size = 2
# How a case is prepared; a run's own, so that a checkpoint knows it.
plan = None
# nnU-Net's sliding window, and its augmentation at test time.
test_windows = dict(
    mode='slide', crop_size=crop_size, overlap=0.5, window_weight='gaussian'
)
mirrored = dict(
    scales=(1.0,),
    flip_axes=tuple(range(-spatial_dims, 0)),
    average='logits',
)
best_metric = 'Dice'
best_rule = 'greater'

# nnU-Net's augmentation, with its numbers (upernet_ext.datasets.transforms).
train_pipeline = [
    dict(type='upernet_ext.LoadCase'),
    dict(
        type='upernet_ext.CropPatch',
        size=crop_size,
        foreground_ratio=0.33,
        rotation_prob=0.2,
        scaling_prob=0.2,
    ),
    dict(type='upernet_ext.RandomGaussianNoise'),
    dict(type='upernet_ext.RandomGaussianBlur'),
    dict(type='upernet_ext.RandomBrightness'),
    dict(type='upernet_ext.RandomContrast'),
    dict(type='upernet_ext.RandomLowResolution'),
    dict(type='upernet_ext.RandomGamma', prob=0.1, invert=True),
    dict(type='upernet_ext.RandomGamma'),
    dict(type='upernet_ext.RandomMirror', axes=mirrored['flip_axes']),
    dict(type='upernet_ext.PackInputs'),
]
unmirrored_pipeline = [
    step for step in train_pipeline if 'RandomMirror' not in step['type']
]
test_pipeline = [
    dict(type='upernet_ext.LoadCase', test_mode=True, plan=plan),
    dict(type='upernet_ext.PackInputs'),
]

num_workers = 4
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=num_workers,
    persistent_workers=num_workers > 0,
    sampler=dict(type='DefaultSampler', shuffle=False),
)
test_dataloader = val_dataloader
# Distances are slow: in the test alone.
val_evaluator = dict(type='upernet_ext.CaseMetric', case_metrics=['Dice'])
test_evaluator = dict(type='upernet_ext.CaseMetric')
