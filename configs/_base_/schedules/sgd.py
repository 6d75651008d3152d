"""SGD with a polynomial fall, the recipe of mmsegmentation's ResNets.

For 16 images an iteration (8 on Cityscapes).
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005),
)
decay = dict(type='PolyLR', power=0.9, eta_min=1e-4, by_epoch=False, begin=0)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
