"""nnU-Net's SGD, 250k iterations, validated every 1000."""

_base_ = 'nesterov.py'
max_iters = 250000
val_interval = max(max_iters // 250, 1)
param_scheduler = [dict(_base_.decay, end=max_iters)]
train_cfg = dict(
    type='IterBasedTrainLoop',
    max_iters=max_iters,
    val_interval=val_interval,
)
