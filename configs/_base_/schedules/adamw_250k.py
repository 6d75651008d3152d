"""AdamW, 250k iterations, validated a thousand times, as nnU-Net."""

_base_ = 'adamw.py'
max_iters = 250000
val_interval = max(max_iters // 1000, 1)
warm_up_iters = min(_base_.longest_warm_up, max_iters // 10)
param_scheduler = [dict(_base_.decay, begin=warm_up_iters, end=max_iters)]
if warm_up_iters > 1:
    param_scheduler.insert(0, dict(_base_.warm_up, end=warm_up_iters))
train_cfg = dict(
    type='IterBasedTrainLoop',
    max_iters=max_iters,
    val_interval=val_interval,
)
