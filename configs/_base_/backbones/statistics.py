"""Mean and deviation of the pixels that published weights were trained with.

RGB, on the 0..255 scale.
"""

imagenet = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
centred = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
# Colour fundus photographs, by VisionFM's authors (its utils.py).
visionfm_fundus = dict(
    mean=[108.05306152, 66.54124662, 32.74299502],
    std=[75.18046305, 51.42678246, 34.85345118],
)
