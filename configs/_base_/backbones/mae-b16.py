"""ViT-B/16 pre-trained by MAE, with a deconvolution pyramid.

Weights: ImageNet-1k without labels, the encoder only (CC-BY-NC 4.0).
https://github.com/facebookresearch/mae
"""

_base_ = 'vit-b16_mln.py'
backbone = dict(
    out_indices=(3, 5, 7, 11),
    pretrained='https://dl.fbaipublicfiles.com/mae/pretrain/'
    'mae_pretrain_vit_base.pth',
)
neck = dict(
    _delete_=True,
    type='upernet_ext.Feature2Pyramid',
    rescales=(4, 2, 1, 0.5),
    norm_cfg=dict(type='SyncBN', requires_grad=True),
)
normalization = _base_.imagenet
