"""Hierarchical transformers and HRNet of mmsegmentation and transformers.

Papers: Swin, https://arxiv.org/abs/2103.14030; Swin V2,
https://arxiv.org/abs/2111.09883; SegFormer (MiT),
https://arxiv.org/abs/2105.15203; PVT v2, https://arxiv.org/abs/2106.13797;
HRNet, https://arxiv.org/abs/1908.07919. The networks are borrowed, images
only; what is here is their sizes and where their weights are. MiT's are for
research only (NVIDIA Source Code License for SegFormer).
"""

from .encoder import Encoder

_MMSEG = 'https://mmassets.onedl.ai/mmsegmentation/v0.5/pretrain'
_HRNET = 'https://mmassets.onedl.ai/pretrain/third_party'
# (embed_dims, depths, first stage's heads, window, edge of the training
# images, file): Swin, section 3.3.
_SWIN = {
    'swin_tiny': (
        *(96, (2, 2, 6, 2), 3, 7, 224),
        'swin_tiny_patch4_window7_224_20220317-1cdeb081.pth',
    ),
    'swin_small': (
        *(96, (2, 2, 18, 2), 3, 7, 224),
        'swin_small_patch4_window7_224_20220317-7ba6d6dd.pth',
    ),
    'swin_base': (
        *(128, (2, 2, 18, 2), 4, 12, 384),
        'swin_base_patch4_window12_384_22k_20220317-e5c09f74.pth',
    ),
    'swin_large': (
        *(192, (2, 2, 18, 2), 6, 12, 384),
        'swin_large_patch4_window12_384_22k_20220412-6580f57d.pth',
    ),
}
# (embed_dim, depths, first stage's heads, window, windows of the position
# bias in pre-training, repository): Swin V2, section 4.1.
_SWIN_V2 = {
    'swin_v2_tiny': (
        *(96, (2, 2, 6, 2), 3, 8, (0, 0, 0, 0)),
        'microsoft/swinv2-tiny-patch4-window8-256',
    ),
    'swin_v2_small': (
        *(96, (2, 2, 18, 2), 3, 8, (0, 0, 0, 0)),
        'microsoft/swinv2-small-patch4-window8-256',
    ),
    'swin_v2_base': (
        *(128, (2, 2, 18, 2), 4, 8, (0, 0, 0, 0)),
        'microsoft/swinv2-base-patch4-window8-256',
    ),
    'swin_v2_large': (
        *(192, (2, 2, 18, 2), 6, 16, (12, 12, 12, 6)),
        'microsoft/swinv2-large-patch4-window12to16-192to256-22kto1k-ft',
    ),
}
# (embed_dims, layers, file): SegFormer, table 6.
_MIT = {
    'mit_b0': (32, (2, 2, 2, 2), 'mit_b0_20220624-7e0fe6dd.pth'),
    'mit_b1': (64, (2, 2, 2, 2), 'mit_b1_20220624-02e5a6a1.pth'),
    'mit_b2': (64, (3, 4, 6, 3), 'mit_b2_20220624-66e8bf70.pth'),
    'mit_b3': (64, (3, 4, 18, 3), 'mit_b3_20220624-13b1141c.pth'),
    'mit_b4': (64, (3, 8, 27, 3), 'mit_b4_20220624-d588d980.pth'),
    'mit_b5': (64, (3, 6, 40, 3), 'mit_b5_20220624-658746d9.pth'),
}
# (widths, layers, MLP ratios): PVT v2, table 1.
_PVT_V2 = {
    'pvt_v2_b0': ((32, 64, 160, 256), (2, 2, 2, 2), (8, 8, 4, 4)),
    'pvt_v2_b1': ((64, 128, 320, 512), (2, 2, 2, 2), (8, 8, 4, 4)),
    'pvt_v2_b2': ((64, 128, 320, 512), (3, 4, 6, 3), (8, 8, 4, 4)),
    'pvt_v2_b3': ((64, 128, 320, 512), (3, 4, 18, 3), (8, 8, 4, 4)),
    'pvt_v2_b4': ((64, 128, 320, 512), (3, 8, 27, 3), (8, 8, 4, 4)),
    'pvt_v2_b5': ((64, 128, 320, 512), (3, 6, 40, 3), (4, 4, 4, 4)),
}
# (width of the finest branch, file).
_HRNETS = {
    'hrnet_w18': (18, 'hrnetv2_w18-00eb2006.pth'),
    'hrnet_w32': (32, 'hrnetv2_w32-dc9eeb4f.pth'),
    'hrnet_w48': (48, 'hrnetv2_w48-d2186c55.pth'),
}


def _doubling(first: int) -> list[int]:
    return [first * 2**i for i in range(4)]


def _swin(
    width: int,
    depths: tuple[int, ...],
    heads: int,
    window: int,
    size: int,
    file: str,
) -> Encoder:
    return Encoder(
        family='swin',
        backbone=dict(
            type='mmseg.SwinTransformer',
            pretrain_img_size=size,
            embed_dims=width,
            depths=list(depths),
            num_heads=_doubling(heads),
            window_size=window,
        ),
        source='https://arxiv.org/abs/2103.14030',
        weights=f'{_MMSEG}/swin/{file}',
        licence='MIT',
    )


def _swin_v2(
    width: int,
    depths: tuple[int, ...],
    heads: int,
    window: int,
    pretrained_windows: tuple[int, ...],
    repository: str,
) -> Encoder:
    config = dict(
        image_size=256,
        embed_dim=width,
        depths=list(depths),
        num_heads=_doubling(heads),
        window_size=window,
        pretrained_window_sizes=list(pretrained_windows),
    )
    return Encoder(
        family='swin_v2',
        backbone=dict(
            type='upernet_ext.TransformersBackbone',
            model_type='swinv2',
            config=config,
        ),
        source='https://arxiv.org/abs/2111.09883',
        weights=_hub(repository, 'pytorch_model.bin'),
        licence='Apache-2.0',
        requires='transformers',
    )


def _mit(width: int, layers: tuple[int, ...], file: str) -> Encoder:
    return Encoder(
        family='mit',
        backbone=dict(
            type='mmseg.MixVisionTransformer',
            embed_dims=width,
            num_layers=list(layers),
            num_heads=[1, 2, 5, 8],
            patch_sizes=[7, 3, 3, 3],
            sr_ratios=[8, 4, 2, 1],
        ),
        source='https://arxiv.org/abs/2105.15203',
        weights=f'{_MMSEG}/segformer/{file}',
        licence='NVIDIA Source Code License for SegFormer (non-commercial)',
    )


def _pvt_v2(name: str) -> Encoder:
    widths, layers, ratios = _PVT_V2[name]
    config = dict(
        hidden_sizes=list(widths),
        depths=list(layers),
        mlp_ratios=list(ratios),
        num_attention_heads=[1, 2, 5, 8],
        sr_ratios=[8, 4, 2, 1],
    )
    return Encoder(
        family='pvt_v2',
        backbone=dict(
            type='upernet_ext.TransformersBackbone',
            model_type='pvt_v2',
            config=config,
        ),
        source='https://arxiv.org/abs/2106.13797',
        weights=_hub(f'OpenGVLab/{name}', 'model.safetensors'),
        licence='Apache-2.0',
        requires='transformers',
    )


def _hrnet(width: int, file: str) -> Encoder:
    def stage(modules: int, branches: int) -> dict:
        return dict(
            num_modules=modules,
            num_branches=branches,
            block='BASIC',
            num_blocks=(4,) * branches,
            num_channels=tuple(_doubling(width)[:branches]),
        )

    stem = dict(
        num_modules=1,
        num_branches=1,
        block='BOTTLENECK',
        num_blocks=(4,),
        num_channels=(64,),
    )
    extra = dict(
        stage1=stem, stage2=stage(1, 2), stage3=stage(4, 3), stage4=stage(3, 4)
    )
    return Encoder(
        family='hrnet',
        backbone=dict(type='mmseg.HRNet', extra=extra),
        source='https://arxiv.org/abs/1908.07919',
        weights=f'{_HRNET}/{file}',
        licence='MIT',
    )


def _hub(repository: str, file: str) -> str:
    return f'https://huggingface.co/{repository}/resolve/main/{file}'


ENCODERS = {
    **{name: _swin(*sizes) for name, sizes in _SWIN.items()},
    **{name: _swin_v2(*sizes) for name, sizes in _SWIN_V2.items()},
    **{name: _mit(*sizes) for name, sizes in _MIT.items()},
    **{name: _pvt_v2(name) for name in _PVT_V2},
    **{name: _hrnet(*sizes) for name, sizes in _HRNETS.items()},
}
