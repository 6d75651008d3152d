"""What the datasets of 2D images share: loaders and metric."""

in_channels = 3
spatial_dims = 2
best_metric = 'mIoU'
best_rule = 'greater'

num_workers = 4
train_dataloader = dict(
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
val_evaluator = dict(type='upernet_ext.IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
