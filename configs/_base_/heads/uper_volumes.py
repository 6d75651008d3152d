"""UPerNet's head for volumes: narrow, group norm, Dice and cross entropy.

A 3 x 3 x 3 convolution has three times the weights of a 3 x 3 one, and a
volume many times the pixels: 128 channels are what 512 are in 2D. Batches are
small, so groups are normed. Every level is also classified on its own in
training (deep supervision).
"""

decode_head = dict(
    type='upernet_ext.UPerHead',
    channels=128,
    pool_scales=(1, 2, 3, 6),
    dropout_ratio=0.1,
    norm_cfg=dict(type='GN'),
    deep_supervision=True,
    loss_decode=dict(type='upernet_ext.DiceCELoss'),
)
auxiliary_head = None
