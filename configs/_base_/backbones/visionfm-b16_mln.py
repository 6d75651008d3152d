"""VisionFM, ViT-B/16, the encoder of colour fundus photographs.

Weights: for research, by the form of the authors' page:
https://github.com/ABILab-CUHK/VisionFM
Paper: https://arxiv.org/abs/2310.04992
"""

_base_ = 'statistics.py'
backbone = dict(
    type='upernet_ext.VisionTransformer',
    arch='visionfm-b',
    pretrained='weights/VFM_Fundus_weights.pth',
)
neck = dict(
    type='upernet_ext.MultiLevelNeck',
    out_channels=768,
    scales=(4, 2, 1, 0.5),
)
normalization = _base_.visionfm_fundus
