"""The plain ViT equals the models that its weights were published for.

For each family a small model of transformers or timm with random weights is
loaded through the same door as published files, and every level compared, on
images that are not square. ``reference/compare_vit.py`` prints the numbers.
For each preset the original's own names and shapes are loaded, without memory,
at full size.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils._device import DeviceContext

from upernet_ext.interop import Receipt, WeightsError, load_pretrained
from upernet_ext.interop.pretrained import load_backbone
from upernet_ext.interop.styles import STYLES
from upernet_ext.interop.vit_transformers import from_vit
from upernet_ext.models import VisionTransformer
from upernet_ext.models.backbones.vit_presets import PRESETS

# Of the standard deviation of a level; both sides compute in fp32.
TOLERANCE = 1e-4
# 48 channels: SwiGLU's hidden ones are 128 by every library's rounding.
SMALL = dict(embed_dims=48, num_layers=4, num_heads=3, img_size=64)
SMALL |= dict(patch_size=8, out_indices=(0, 1, 2, 3))
LEVELS = range(4)
IMAGE = (40, 72)
PLAIN = dict(img_size=224, patch_size=16, mlp_ratio=4.0, norm_eps=1e-6)
PLAIN |= dict(qkv_bias=True, init_values=0.0, num_registers=0, mlp='gelu')


def randomise(model: nn.Module) -> nn.Module:
    """Draw everything anew: also biases, layer scales, registers, tables."""
    for name, parameter in model.named_parameters():
        matrix = parameter.ndim > 1 and name.endswith('weight')
        nn.init.normal_(parameter, std=0.3 if matrix else 1)
    return model.eval()


def settings_of(preset: str, **overrides: Any) -> dict[str, Any]:
    return {**PLAIN, **PRESETS[preset], **overrides}


def ours_for(preset: str, **overrides: Any) -> VisionTransformer:
    """Our model with all the preset says but its size."""
    arch = {**PRESETS[preset], **SMALL, **overrides}
    return VisionTransformer(arch).eval()


# ---- transformers -------------------------------------------------------


def transformers_model(
    preset: str, *, shared: bool = False, **overrides: Any
) -> nn.Module:
    """Build transformers' own model with a preset's settings."""
    cfg = settings_of(preset, **overrides)
    common = dict(
        hidden_size=cfg['embed_dims'],
        num_hidden_layers=cfg['num_layers'],
        num_attention_heads=cfg['num_heads'],
        image_size=cfg['img_size'],
        patch_size=cfg['patch_size'],
        layer_norm_eps=cfg['norm_eps'],
    )
    hidden = dict(intermediate_size=int(cfg['embed_dims'] * cfg['mlp_ratio']))
    gated = cfg['mlp'] == 'swiglu'
    if cfg['num_registers'] and preset.startswith('dinov2'):
        return transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(
                **common, use_swiglu_ffn=gated, num_register_tokens=4
            )
        )
    if 'dinov2' in preset:
        return transformers.Dinov2Model(
            transformers.Dinov2Config(**common, use_swiglu_ffn=gated)
        )
    if preset.startswith('dinov3'):
        has_bias = bool(cfg['qkv_bias'])
        return transformers.DINOv3ViTModel(
            transformers.DINOv3ViTConfig(
                **common,
                **hidden,
                use_gated_mlp=gated,
                hidden_act='silu' if gated else 'gelu',
                num_register_tokens=4,
                query_bias=has_bias,
                value_bias=has_bias,
            )
        )
    if 'mae' in preset:
        return transformers.ViTMAEModel(
            transformers.ViTMAEConfig(**common, **hidden, mask_ratio=0.0)
        )
    if preset.startswith('beit'):
        return transformers.BeitModel(
            transformers.BeitConfig(
                **common,
                **hidden,
                layer_scale_init_value=0.1,
                use_relative_position_bias=not shared,
                use_shared_relative_position_bias=shared,
                use_absolute_position_embeddings=shared,
            )
        )
    return transformers.ViTModel(
        transformers.ViTConfig(**common, **hidden), add_pooling_layer=False
    )


def transformers_levels(theirs: nn.Module, image: Tensor) -> list[Tensor]:
    """Every block's patches, in the order of the image."""
    options = {}
    if 'ViTM' in type(theirs).__name__ or isinstance(
        theirs, transformers.ViTModel
    ):
        options['interpolate_pos_encoding'] = True
    if isinstance(theirs, transformers.ViTMAEModel):
        grid = [s // theirs.config.patch_size for s in image.shape[2:]]
        options['noise'] = torch.rand(len(image), grid[0] * grid[1])
    output = theirs(image, output_hidden_states=True, **options)
    levels = []
    for hidden in output.hidden_states[1:]:
        grid = [s // theirs.config.patch_size for s in image.shape[2:]]
        patches = hidden[:, -grid[0] * grid[1] :]
        if 'noise' in options:  # MAE shuffles the patches
            order = output.ids_restore.unsqueeze(-1).expand_as(patches)
            patches = patches.gather(1, order)
        levels.append(patches.mT.unflatten(2, grid))
    return levels


def transformers_pair(
    preset: str, *, shared: bool = False
) -> tuple[VisionTransformer, nn.Module, Callable]:
    theirs = randomise(transformers_model(preset, shared=shared, **SMALL))
    overrides = dict(rel_pos_bias='shared', pos_embed=True) if shared else {}
    ours = ours_for(preset, **overrides)
    norm = getattr(theirs, 'layernorm', getattr(theirs, 'norm', None))

    def levels(image: Tensor) -> list[Tensor]:
        maps = transformers_levels(theirs, image)
        if ours.norm is None:
            return maps
        return [norm(m.movedim(1, -1)).movedim(-1, 1) for m in maps]

    return ours, theirs, levels


# ---- timm ---------------------------------------------------------------


def timm_pair(
    preset: str,
) -> tuple[VisionTransformer, nn.Module, Callable]:
    import timm

    cfg = settings_of(preset, **{**SMALL, 'img_size': IMAGE})
    common = dict(
        embed_dim=cfg['embed_dims'],
        depth=cfg['num_layers'],
        num_heads=cfg['num_heads'],
        img_size=cfg['img_size'],
        patch_size=cfg['patch_size'],
        mlp_ratio=cfg['mlp_ratio'],
        num_classes=0,
        init_values=cfg['init_values'] or None,
    )
    norm_layer = partial(nn.LayerNorm, eps=cfg['norm_eps'])
    if preset.startswith('beit'):
        theirs = timm.models.beit.Beit(
            **common,
            norm_layer=norm_layer,
            use_abs_pos_emb=False,
            use_rel_pos_bias=True,
        )
    elif preset.startswith(('dinov3', 'eva02')):
        eva02 = preset.startswith('eva02')
        rope = cfg['rope']
        theirs = timm.models.eva.Eva(
            **common,
            norm_layer=norm_layer,
            qkv_fused=not eva02,
            qkv_bias=bool(cfg['qkv_bias']),
            swiglu_mlp=cfg['mlp'] != 'gelu',
            scale_mlp=eva02,
            swiglu_align_to=0 if eva02 else 8,
            use_rot_pos_emb=True,
            use_abs_pos_emb=eva02,
            num_reg_tokens=cfg['num_registers'],
            use_fc_norm=False,
            rope_type='cat' if eva02 else 'dinov3',
            rope_temperature=rope['base'],
            rope_rotate_half=not eva02,
            ref_feat_shape=(16, 16) if eva02 else None,
            dynamic_img_size=not eva02,
        )
    else:
        if cfg['mlp'] == 'swiglu':  # gate and value in one
            common |= dict(
                mlp_layer=timm.layers.SwiGLUPacked, act_layer=nn.SiLU
            )
            common['mlp_ratio'] *= 2
        theirs = timm.models.VisionTransformer(
            **common,
            norm_layer=norm_layer,
            reg_tokens=cfg['num_registers'],
            no_embed_class=bool(cfg['num_registers']),
        )
    randomise(theirs)
    ours = ours_for(preset, img_size=IMAGE)

    def levels(image: Tensor) -> list[Tensor]:
        return theirs.forward_intermediates(
            image,
            indices=list(LEVELS),
            norm=ours.norm is not None,
            intermediates_only=True,
        )

    return ours, theirs, levels


CASES: dict[str, Callable] = {
    **{
        f'{preset}, transformers': partial(transformers_pair, preset)
        for preset in (
            *('dinov2-b', 'dinov2-g', 'dinov2-reg-b', 'dinov2-reg-g'),
            *('dinov3-b', 'dinov3-h+', 'dinov3-7b', 'augreg-b', 'mae-b'),
            *('retfound-mae-l', 'retfound-dinov2-l', 'visionfm-b'),
            *('beit-b', 'beitv2-l'),
        )
    },
    'beit-b shared, transformers': partial(
        transformers_pair, 'beit-b', shared=True
    ),
    **{
        f'{preset}, timm': partial(timm_pair, preset)
        for preset in (
            *('augreg-b', 'deit-s', 'mae-b', 'dinov2-b', 'dinov2-g'),
            *('dinov3-b', 'dinov3-s+', 'dinov3-7b', 'beit-b', 'eva02-b'),
        )
    },
}


@torch.no_grad()
def differences(case: str) -> tuple[Receipt, list[float]]:
    """Load and compare: of each level max |difference| / its std."""
    ours, theirs, levels = CASES[case]()
    receipt = load_backbone(ours, theirs.state_dict(), source=case)
    image = torch.randn(2, 3, *IMAGE)
    return receipt, [
        ((found - wanted).abs().max() / wanted.std()).item()
        for found, wanted in zip(ours(image), levels(image), strict=True)
    ]


@pytest.mark.needs_torchvision
@pytest.mark.parametrize('case', CASES)
def test_every_level_equals_the_original(case: str) -> None:
    receipt, found = differences(case)
    assert len(found) == 4
    assert max(found) <= TOLERANCE, found
    # nothing was resampled or set: the original's own tensors, all of them
    assert not receipt.changes
    assert not receipt.missing


# ---- names and shapes of every preset, at full size ------------------------


class _Meta(DeviceContext):
    """``torch.device('meta')`` under which a linspace can still be read."""

    def __init__(self) -> None:
        super().__init__(torch.device('meta'))

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.linspace:  # timm reads its drop path rates from it
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


_WORDS = dict(t='tiny', s='small', b='base', l='large', h='huge', g='giant')
_WORDS |= {'s+': 'small_plus', 'h+': 'huge_plus', '7b': '7b'}


def timm_name(preset: str) -> str:
    """Name of timm's model of the same size."""
    family, size = re.match(r'(.+?)-([^-]+)$', preset).groups()
    if preset.startswith('visionfm'):
        family, size = 'visionfm', 'b'
    word = _WORDS[size]
    patch = PRESETS[preset].get('patch_size', 16)
    bias = '' if size == '7b' else '_qkvb'
    return {
        'deit': f'deit_{word}_patch16_224',
        'dinov2': f'vit_{word}_patch14_dinov2',
        'dinov2-reg': f'vit_{word}_patch14_reg4_dinov2',
        'dinov3': f'vit_{word}_patch16_dinov3{bias}',
        'retfound-dinov2': f'vit_{word}_patch14_dinov2',
        'beit': f'beit_{word}_patch16_224',
        'beitv2': f'beitv2_{word}_patch16_224',
        'eva02': f'eva02_{word}_patch14_224',
    }.get(family, f'vit_{word}_patch{patch}_224')


def assert_complete(
    ours: VisionTransformer, theirs: nn.Module, allowed: str
) -> Receipt:
    receipt = load_backbone(ours, theirs.state_dict(), source='original')
    assert set(receipt.matched) == set(ours.state_dict())
    assert not receipt.missing
    extra = [n for n in receipt.unused if not re.match(allowed, n)]
    assert not extra
    return receipt


@pytest.mark.needs_torchvision
@pytest.mark.parametrize('preset', PRESETS)
def test_names_and_shapes_of_timm(preset: str) -> None:
    import timm

    options = dict(num_classes=0)
    if preset.startswith('retfound-dinov2'):
        options['img_size'] = 224
    with _Meta():
        theirs = timm.create_model(timm_name(preset), **options)
        ours = VisionTransformer(preset)
    receipt = assert_complete(ours, theirs, r'norm\.|fc_norm\.')
    registers = preset.startswith('dinov2-reg')
    assert [c.name for c in receipt.changes] == ['pos_embed'] * registers
    # and what shapes do not show
    own, block = ours.blocks[0], theirs.blocks[0]
    assert own.attn.num_heads == block.attn.num_heads
    assert own.norm1.eps == block.norm1.eps
    if ours.rope is not None:
        assert ours.rope.base == theirs.rope.temperature
        assert ours.rope.interleaved != block.attn.rotate_half


@pytest.mark.parametrize(
    'preset', [p for p in PRESETS if not p.startswith('eva02')]
)
def test_names_and_shapes_of_transformers(preset: str) -> None:
    with torch.device('meta'):
        theirs = transformers_model(preset)
        ours = VisionTransformer(preset)
    receipt = assert_complete(
        ours, theirs, r'embeddings\.mask_token|pooler\.|layernorm\.'
    )
    assert not receipt.changes


# ---- there and back -------------------------------------------------------

# Style -> presets whose models the library has.
BACK = {
    'transformers.vit': ('augreg-b', 'mae-b'),
    'transformers.dinov2': ('dinov2-b', 'dinov2-g', 'dinov2-reg-g'),
    'transformers.dinov3': ('dinov3-b', 'dinov3-h+', 'dinov3-7b'),
    'transformers.beit': ('beit-b',),
    'timm': (
        *('mae-b', 'dinov2-g', 'dinov3-b', 'dinov3-h+', 'dinov3-7b'),
        *('beit-b', 'eva02-b'),
    ),
    'mmseg.vit': ('augreg-b', 'mae-b'),
    'mmseg.beit': ('beit-b',),
    'mmpretrain.vit': ('augreg-b', 'dinov2-b', 'dinov2-g'),
}
STYLE = {style.name: style for style in STYLES['vit']}


@pytest.mark.parametrize(
    ('style', 'preset'),
    [(s, p) for s in BACK if s.startswith('transformers') for p in BACK[s]],
)
def test_export_fills_the_library_s_own_model(style: str, preset: str) -> None:
    assert_fills(transformers_model(preset, **SMALL), style, preset)


@pytest.mark.needs_torchvision
@pytest.mark.parametrize('preset', [*BACK['timm'], 'dinov2-reg-b'])
def test_export_fills_timms_own_model(preset: str) -> None:
    _, theirs, _ = timm_pair(preset)
    assert_fills(theirs, 'timm', preset, img_size=IMAGE)


def assert_fills(
    theirs: nn.Module, style: str, preset: str, **overrides: Any
) -> None:
    ours = randomise(ours_for(preset, **overrides))
    away = STYLE[style].to_style(ours.state_dict())
    missing, unexpected = theirs.load_state_dict(away, strict=False)
    assert not unexpected
    without_norm = PRESETS[preset].get('final_norm') is None
    allowed = r'layernorm\.|pooler\.|(fc_)?norm\.' if without_norm else r'(?!)'
    assert not [name for name in missing if not re.match(allowed, name)]


@pytest.mark.needs_torchvision
@torch.no_grad()
def test_registers_of_timm() -> None:
    """There the class token has taken its position in: equal up to a sum."""
    ours, theirs, levels = timm_pair('dinov2-reg-b')
    randomise(ours)
    theirs.load_state_dict(STYLE['timm'].to_style(ours.state_dict()))
    back = ours_for('dinov2-reg-b', img_size=IMAGE)
    file = theirs.state_dict()
    # the door cannot guess a grid that is not square
    file['pos_embed'] = torch.cat(
        [torch.zeros_like(file['cls_token']), file['pos_embed']], 1
    )
    load_backbone(back, file, source='timm')
    image = torch.randn(2, 3, *IMAGE)
    for wanted, *found in zip(
        levels(image), ours(image), back(image), strict=True
    ):
        for level in found:
            assert (level - wanted).abs().max() <= TOLERANCE * wanted.std()


@pytest.mark.parametrize(
    'preset', ['dinov2-g', 'dinov3-h+', 'mae-b', 'augreg-b', 'beit-b']
)
def test_a_file_that_transformers_wrote_loads(
    preset: str, tmp_path: Path
) -> None:
    """``save_pretrained`` writes the names of version 4."""
    theirs = randomise(transformers_model(preset, **SMALL))
    theirs.save_pretrained(tmp_path)
    path = tmp_path / 'model.safetensors'
    written = set(load_file(path))
    assert preset == 'dinov3-h+' or written.isdisjoint(
        n for n in theirs.state_dict() if '.attention.' in n
    )
    ours = ours_for(preset)
    load_pretrained(ours, str(path))
    wanted = from_vit(theirs.state_dict())
    for name, value in ours.state_dict().items():
        assert torch.equal(value, wanted[name]), name


# ---- what does not fit fails, and names it --------------------------------

FAMILIES = ('dinov2-g', 'dinov2-reg-b', 'dinov3-b', 'dinov3-h+', 'mae-b')
FAMILIES += ('augreg-b', 'beit-b')


@pytest.fixture(params=FAMILIES)
def file(request: pytest.FixtureRequest) -> tuple[str, Mapping[str, Tensor]]:
    model = transformers_model(request.param, **SMALL)
    return request.param, model.state_dict()


def _names(state_dict: Mapping[str, Tensor]) -> list[str]:
    """One of each kind of tensor that a file has."""
    kinds = {re.sub(r'\d+', '#', name): name for name in state_dict}
    unused = ('pooler', 'mask_token', 'layernorm.')
    return [n for n in kinds.values() if not any(u in n for u in unused)]


def test_one_renamed_key_fails_and_is_named(file: tuple) -> None:
    preset, state_dict = file
    for name in _names(state_dict):
        changed = dict(state_dict)
        changed[f'{name}x'] = changed.pop(name)
        with pytest.raises(WeightsError, match=re.escape(f'{name}x')):
            load_backbone(ours_for(preset), changed, source='file')


def test_one_other_shape_fails_and_is_named(file: tuple) -> None:
    preset, state_dict = file
    for name in _names(state_dict):
        value = state_dict[name]
        changed = {**state_dict, name: value.new_zeros(2, *value.shape)}
        with pytest.raises(WeightsError) as error:
            load_backbone(ours_for(preset), changed, source='file')
        (here,) = from_vit({name: value})
        assert name in str(error.value) or f'{here} (' in str(error.value)


def test_a_wrong_prefix_fails_and_is_named(file: tuple) -> None:
    preset, state_dict = file
    changed = {f'wrong.{name}': value for name, value in state_dict.items()}
    with pytest.raises(WeightsError, match=r'wrong\.embeddings'):
        load_backbone(ours_for(preset), changed, source='file')
