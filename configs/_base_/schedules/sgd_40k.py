"""SGD, 40k iterations, validated ten times."""

_base_ = 'sgd.py'
max_iters = 40000
val_interval = max(max_iters // 10, 1)
param_scheduler = [dict(_base_.decay, end=max_iters)]
train_cfg = dict(
    type='IterBasedTrainLoop',
    max_iters=max_iters,
    val_interval=val_interval,
)
