"""SGD with Nesterov's momentum and a polynomial fall: nnU-Net's recipe.

nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py of
https://github.com/MIC-DKFZ/nnUNet: 250k iterations.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='SGD', lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5
    ),
    clip_grad=dict(max_norm=12, norm_type=2),
)
decay = dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, begin=0)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
