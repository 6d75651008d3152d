"""PVT v2 of transformers and HRNet of mmsegmentation.

Papers: PVT v2, https://arxiv.org/abs/2106.13797; HRNet,
https://arxiv.org/abs/1908.07919. The networks are borrowed, for images; what
is here is their sizes and where their weights are.
"""

from .encoder import Encoder

_HRNET = 'https://mmassets.onedl.ai/pretrain/third_party'
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
        spatial_dims=(2, 3),
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
        spatial_dims=(2, 3),
        weights=f'{_HRNET}/{file}',
        licence='MIT',
    )


def _hub(repository: str, file: str) -> str:
    return f'https://huggingface.co/{repository}/resolve/main/{file}'


ENCODERS = {
    **{name: _pvt_v2(name) for name in _PVT_V2},
    **{name: _hrnet(*sizes) for name, sizes in _HRNETS.items()},
}
