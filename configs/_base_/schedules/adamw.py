"""AdamW, a warm-up, and a linear fall to zero: what its lengths share.

As Swin in mmsegmentation (configs/swin), for 16 images an iteration. No
weight decay on norms, biases, position embeddings and tokens.
"""

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW',
        lr=6e-5,
        betas=(0.9, 0.999),
        weight_decay=0.01,
        fused=True,
    ),
    constructor='upernet_ext.LayerDecayConstructor',
)
warm_up = dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0)
decay = dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False)
longest_warm_up = 1500
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
