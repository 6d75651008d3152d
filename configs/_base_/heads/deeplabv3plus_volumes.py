"""DeepLabV3+'s head for volumes: group norm, Dice and cross entropy.

Dilation rates shrink with the map where they would see padding only.
"""

decode_head = dict(
    type='upernet_ext.DeepLabV3PlusHead',
    channels=128,
    dropout_ratio=0.1,
    norm_cfg=dict(type='GN'),
    loss_decode=dict(type='upernet_ext.DiceCELoss'),
)
auxiliary_head = None
