"""DeepLabV3+'s head, and the auxiliary head on the third level.

Sizes are mmsegmentation's (configs/_base_/models/deeplabv3plus_r50-d8.py),
dilations those for a backbone of stride 8: at stride 16 half of them, and so
on. SyncBN is BN where there is one process or no GPU.
"""

norm_cfg = dict(type='SyncBN', requires_grad=True)
decode_head = dict(
    type='upernet_ext.DeepLabV3PlusHead',
    channels=512,
    dilations=(1, 12, 24, 36),
    c1_channels=48,
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
