"""RETFound, ViT-L/16 pre-trained by MAE on colour fundus photographs.

Weights: CC BY-NC 4.0 and gated; ask for access and fetch them:
https://huggingface.co/YukunZhou/RETFound_mae_natureCFP
Paper: https://www.nature.com/articles/s41586-023-06555-x
"""

_base_ = 'statistics.py'
backbone = dict(
    type='upernet_ext.VisionTransformer',
    arch='retfound-mae-l',
    pretrained='weights/RETFound_mae_natureCFP.pth',
)
neck = dict(
    type='upernet_ext.MultiLevelNeck',
    out_channels=1024,
    scales=(4, 2, 1, 0.5),
)
normalization = _base_.imagenet
