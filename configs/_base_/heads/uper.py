"""UPerNet's head, and the auxiliary head on the third level.

Sizes are mmsegmentation's (configs/_base_/models/upernet_r50.py). SyncBN is
BN where there is one process or no GPU.
"""

norm_cfg = dict(type='SyncBN', requires_grad=True)
decode_head = dict(
    type='upernet_ext.UPerHead',
    channels=512,
    pool_scales=(1, 2, 3, 6),
    dropout_ratio=0.1,
    norm_cfg=norm_cfg,
    loss_decode=dict(type='upernet_ext.CrossEntropyLoss', loss_weight=1.0),
)
auxiliary_head = dict(
    type='upernet_ext.FCNHead',
    in_index=2,
    channels=256,
    num_convs=1,
    concat_input=False,
    dropout_ratio=0.1,
    norm_cfg=norm_cfg,
    loss_decode=dict(type='upernet_ext.CrossEntropyLoss', loss_weight=0.4),
)
