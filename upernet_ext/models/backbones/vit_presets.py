"""The published plain vision transformers, by name.

Each preset gives the arguments of ``VisionTransformer`` that its weights need;
``ENCODERS`` tells where they come from, under which licence, and how their
images were normalised. Levels without a final norm follow mmseg's recipes of
the family, levels with one follow the authors' ``get_intermediate_layers``.
"""

from collections.abc import Mapping
from types import MappingProxyType

from .encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder, timm_weights

# Size: (embed_dims, num_layers, num_heads). ViT paper table 1, DeiT table 1,
# DINOv2 table 17, DINOv3 table 2.
ARCHITECTURES = {
    't': (192, 12, 3),
    's': (384, 12, 6),
    's+': (384, 12, 6),
    'b': (768, 12, 12),
    'l': (1024, 24, 16),
    'h': (1280, 32, 16),
    'h+': (1280, 32, 20),
    'g': (1536, 40, 24),
    '7b': (4096, 40, 32),
}

_HALF = (127.5,) * 3
# OpenAI's CLIP, as timm gives it for EVA-02.
_CLIP_MEAN = (122.7709383, 116.7460125, 104.09373615)
_CLIP_STD = (68.5005327, 66.6321579, 70.32316305)

# VisionFM has an encoder a modality: mean and deviation of its pixels, 0..1
# (get_stats in utils.py of ABILab-CUHK/VisionFM).
_VISIONFM = {
    '': (
        (0.423737496137619, 0.2609460651874542, 0.128403902053833),
        (0.29482534527778625, 0.20167365670204163, 0.13668020069599152),
    ),
    '-oct': (
        (0.21091926, 0.21091926, 0.21091919),
        (0.17598894, 0.17598891, 0.17598893),
    ),
    '-ffa': (
        (0.2020487, 0.20205145, 0.20201068),
        (0.17406046, 0.17404206, 0.17401208),
    ),
    '-ultrasound': (
        (0.05989236, 0.05978666, 0.056694973),
        (0.154277, 0.15504874, 0.14464583),
    ),
    '-external': (
        (0.4936253, 0.36324808, 0.25956994),
        (0.32001, 0.27109432, 0.21991591),
    ),
    '-slitlamp': (
        (0.5556667, 0.40288574, 0.38857886),
        (0.26516676, 0.23311588, 0.23903583),
    ),
    '-mri': ((0.17368862,) * 3, (0.16198656,) * 3),
    '-ubm': ((0.096110865,) * 3, (0.20977867,) * 3),
}

_DINOV2 = dict(patch_size=14, img_size=518, init_values=1.0, final_norm=True)
_DINOV3 = dict(
    patch_size=16,
    pos_embed=False,
    rope=dict(base=100.0),
    num_registers=4,
    qkv_bias='qv',
    init_values=1e-5,
    norm_eps=1e-5,
    final_norm=True,
)
_BEIT = dict(pos_embed=False, rel_pos_bias='block', qkv_bias='qv')
_EVA02 = dict(
    patch_size=14,
    rope=dict(base=10000.0, reference_grid=16, interleaved=True),
    qkv_bias='qv',
    mlp='swiglu-norm',
    mlp_ratio=8 / 3,
)
# DINOv3's hidden channels: ffn_ratio * 2 / 3 of dinov3/hub/backbones.py.
_DINOV3_SIZES = {
    's': {},
    's+': dict(mlp='swiglu', mlp_ratio=4.0),
    'b': {},
    'l': dict(out_indices=(4, 11, 17, 23)),
    'h+': dict(mlp='swiglu', mlp_ratio=4.0),
    '7b': dict(mlp='swiglu', mlp_ratio=2.0, qkv_bias=False),
}
_GIANT = dict(mlp='swiglu', mlp_ratio=8 / 3)


def _presets() -> dict[str, dict]:
    presets = {}

    def add(name: str, size: str, *settings: Mapping) -> None:
        dims = zip(
            ('embed_dims', 'num_layers', 'num_heads'),
            ARCHITECTURES[size],
            strict=True,
        )
        presets[name] = dict(dims)
        for values in settings:
            presets[name].update(values)

    for size in 'tsbl':
        add(f'augreg-{size}', size)
    for size in 'tsb':
        add(f'deit-{size}', size)
    for size in 'blh':
        add(f'mae-{size}', size, dict(patch_size=14) if size == 'h' else {})
    for size in 'sblg':
        swiglu = _GIANT if size == 'g' else {}
        add(f'dinov2-{size}', size, _DINOV2, swiglu)
        registers = dict(num_registers=4, antialias=True)
        add(f'dinov2-reg-{size}', size, _DINOV2, swiglu, registers)
    for size, settings in _DINOV3_SIZES.items():
        add(f'dinov3-{size}', size, _DINOV3, settings)
    add('retfound-mae-l', 'l')
    # models_vit.py of rmaphoh/RETFound builds DINOv2's ViT-L/14 at 224.
    add('retfound-dinov2-l', 'l', _DINOV2, dict(img_size=224))
    for modality in _VISIONFM:
        # train_seg_decoder.py of VisionFM takes normed levels.
        add(f'visionfm-b{modality}', 'b', dict(final_norm=True))
    add('beit-b', 'b', _BEIT, dict(init_values=0.1))
    add('beit-l', 'l', _BEIT, dict(init_values=1e-5))
    add('beitv2-b', 'b', _BEIT, dict(init_values=1e-5))
    add('beitv2-l', 'l', _BEIT, dict(init_values=1e-5))
    add('eva02-b', 'b', _EVA02)
    add('eva02-l', 'l', _EVA02)
    return presets


# Name -> arguments of VisionTransformer, with its dimensions.
PRESETS: Mapping[str, Mapping] = MappingProxyType(_presets())


def _encoder(name: str, source: str, **values) -> Encoder:
    embed_dims = PRESETS[name]['embed_dims']
    return Encoder(
        family=name.split('-')[0],
        backbone=dict(type='upernet_ext.VisionTransformer', arch=name),
        source=source,
        spatial_dims=(2, 3),
        neck=dict(
            type='upernet_ext.MultiLevelNeck',
            # Of 4096 channels the neck alone would have 600 M parameters.
            out_channels=embed_dims if embed_dims < 4096 else 1024,
            scales=(4, 2, 1, 0.5),
        ),
        **values,
    )


def _supervised() -> dict[str, Encoder]:
    words = dict(t='tiny', s='small', b='base', l='large')
    encoders = {}
    for size, word in words.items():
        name = f'vit_{word}_patch16_224.augreg_in21k'
        encoders[f'augreg-{size}'] = _encoder(
            f'augreg-{size}',
            'https://arxiv.org/abs/2106.10270',
            weights=timm_weights(name),
            licence='Apache-2.0',
            mean=_HALF,
            std=_HALF,
            reference='timm, transformers.ViTModel',
        )
    files = dict(t='tiny', s='small', b='base')
    hashes = dict(t='a1311bcf', s='cd65a155', b='b5f2ef4d')
    for size, word in files.items():
        encoders[f'deit-{size}'] = _encoder(
            f'deit-{size}',
            'https://arxiv.org/abs/2012.12877',
            weights='https://dl.fbaipublicfiles.com/deit/'
            f'deit_{word}_patch16_224-{hashes[size]}.pth',
            licence='Apache-2.0',
            reference='timm',
        )
    return encoders


def _self_supervised() -> dict[str, Encoder]:
    encoders = {}
    for size, word in dict(b='base', l='large', h='huge').items():
        encoders[f'mae-{size}'] = _encoder(
            f'mae-{size}',
            'https://arxiv.org/abs/2111.06377',
            weights='https://dl.fbaipublicfiles.com/mae/pretrain/'
            f'mae_pretrain_vit_{word}.pth',
            licence='CC BY-NC 4.0',
            reference='timm, transformers.ViTMAEModel',
        )
    for size in 'sblg':
        folder = f'https://dl.fbaipublicfiles.com/dinov2/dinov2_vit{size}14/'
        encoders[f'dinov2-{size}'] = _encoder(
            f'dinov2-{size}',
            'https://arxiv.org/abs/2304.07193',
            weights=f'{folder}dinov2_vit{size}14_pretrain.pth',
            licence='Apache-2.0',
            reference='timm, transformers.Dinov2Model',
        )
        encoders[f'dinov2-reg-{size}'] = _encoder(
            f'dinov2-reg-{size}',
            'https://arxiv.org/abs/2309.16588',
            weights=f'{folder}dinov2_vit{size}14_reg4_pretrain.pth',
            licence='Apache-2.0',
            reference='timm, transformers.Dinov2WithRegistersModel',
        )
    words = {'s': 's16', 's+': 's16plus', 'b': 'b16', 'l': 'l16'}
    words |= {'h+': 'h16plus', '7b': '7b16'}
    for size, word in words.items():
        encoders[f'dinov3-{size}'] = _encoder(
            f'dinov3-{size}',
            'https://arxiv.org/abs/2508.10104',
            weights_page='https://huggingface.co/facebook/'
            f'dinov3-vit{word}-pretrain-lvd1689m',
            licence='DINOv3 License, gated: to be accepted on that page',
            reference='timm, transformers.DINOv3ViTModel',
        )
    return encoders


def _masked_images() -> dict[str, Encoder]:
    names = {
        'beit-b': 'beit_base_patch16_224.in22k_ft_in22k',
        'beit-l': 'beit_large_patch16_224.in22k_ft_in22k',
        'beitv2-b': 'beitv2_base_patch16_224.in1k_ft_in22k',
        'beitv2-l': 'beitv2_large_patch16_224.in1k_ft_in22k',
        'eva02-b': 'eva02_base_patch14_224.mim_in22k',
        'eva02-l': 'eva02_large_patch14_224.mim_m38m',
    }
    papers = dict(beit='2106.08254', beitv2='2208.06366', eva02='2303.11331')
    statistics = dict(
        beit=(_HALF, _HALF),
        beitv2=(IMAGENET_MEAN, IMAGENET_STD),
        eva02=(_CLIP_MEAN, _CLIP_STD),
    )
    encoders = {}
    for name, published in names.items():
        family = name.split('-')[0]
        mean, std = statistics[family]
        encoders[name] = _encoder(
            name,
            f'https://arxiv.org/abs/{papers[family]}',
            weights=timm_weights(published),
            licence='MIT',
            mean=mean,
            std=std,
            reference='timm'
            + ', transformers.BeitModel' * family.startswith('beit'),
        )
    return encoders


def _retinal() -> dict[str, Encoder]:
    encoders = {}
    releases = {
        'retfound-mae-l': ('RETFound_mae_natureCFP', 'ViTMAEModel'),
        'retfound-dinov2-l': ('RETFound_dinov2_meh', 'Dinov2Model'),
    }
    for name, (repository, reference) in releases.items():
        encoders[name] = _encoder(
            name,
            'https://www.nature.com/articles/s41586-023-06555-x',
            weights_page=f'https://huggingface.co/YukunZhou/{repository}',
            licence='CC BY-NC 4.0, gated: to be accepted on that page',
            reference=f'transformers.{reference}',
        )
    for modality, (mean, std) in _VISIONFM.items():
        encoders[f'visionfm-b{modality}'] = _encoder(
            f'visionfm-b{modality}',
            'https://ai.nejm.org/doi/full/10.1056/AIoa2300221',
            weights_page='https://github.com/ABILab-CUHK/VisionFM',
            licence='research and education only',
            mean=tuple(255 * value for value in mean),
            std=tuple(255 * value for value in std),
            reference='transformers.ViTModel',
        )
    return encoders


ENCODERS: dict[str, Encoder] = {
    **_supervised(),
    **_self_supervised(),
    **_masked_images(),
    **_retinal(),
}
