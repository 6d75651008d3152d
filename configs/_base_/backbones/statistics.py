"""Mean and deviation of the pixels that published weights were trained with.

RGB, on the 0..255 scale.
"""

imagenet = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
centred = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
