"""Files as the authors of DINOv2, DINOv3, MAE, BEiT ... publish them.

Their code cannot be installed here, so the names are written out as it gives
them; the values are those of a model of ours.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from upernet_ext.interop import WeightsError, load_pretrained
from upernet_ext.models import VisionTransformer
from upernet_ext.models.backbones.vit_presets import PRESETS

C = 24
SMALL = dict(embed_dims=C, num_layers=2, num_heads=3, out_indices=(0, 1))
SMALL |= dict(img_size=32, patch_size=8)


def model(preset: str) -> VisionTransformer:
    vit = VisionTransformer({**PRESETS[preset], **SMALL})
    for parameter in vit.parameters():
        nn.init.normal_(parameter)
    return vit


def rename(weights: Mapping[str, Tensor], *rules: tuple) -> dict[str, Tensor]:
    renamed = {}
    for name, value in weights.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def dinov2_release(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        **rename(
            weights,
            (r'^reg_token$', 'register_tokens'),
            (r'mlp\.fc1', 'mlp.w12'),
            (r'mlp\.fc2', 'mlp.w3'),
        ),
        'mask_token': torch.zeros(1, C),
    }


def dinov2_training(weights: Mapping[str, Tensor]) -> dict:
    """A checkpoint of a training run: a teacher, its blocks in chunks."""
    backbone = rename(weights, (r'^blocks\.(\d)', r'blocks.\1.\1'))
    backbone['mask_token'] = torch.zeros(1, C)
    teacher = {f'backbone.{name}': v for name, v in backbone.items()}
    return dict(teacher={**teacher, 'dino_head.mlp.0.weight': torch.ones(1)})


def dinov3_release(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    file = rename(
        weights,
        (r'^reg_token$', 'storage_tokens'),
        (r'mlp\.fc2', 'mlp.w3'),
    )
    for i in range(SMALL['num_layers']):
        attn, mlp = f'blocks.{i}.attn.', f'blocks.{i}.mlp.'
        q, v = file.pop(f'{attn}q_bias'), file.pop(f'{attn}v_bias')
        # The keys' share is there, but masked.
        file[f'{attn}qkv.bias'] = torch.cat([q, torch.ones(C), v])
        mask = torch.ones(3, C)
        mask[1] = 0
        file[f'{attn}qkv.bias_mask'] = mask.flatten()
        for kind in ('weight', 'bias'):
            gate, value = file.pop(f'{mlp}fc1.{kind}').chunk(2)
            file[f'{mlp}w1.{kind}'], file[f'{mlp}w2.{kind}'] = gate, value
    return {
        **file,
        'rope_embed.periods': torch.ones(2),
        'mask_token': torch.zeros(1, C),
        'local_cls_norm.weight': torch.ones(C),
        'local_cls_norm.bias': torch.ones(C),
    }


def mae_training(weights: Mapping[str, Tensor]) -> dict:
    """RETFound's MAE: with the decoder, under ``model``."""
    decoder = dict(
        mask_token=torch.zeros(1, 1, 4),
        decoder_pos_embed=torch.zeros(1, 17, 4),
    )
    decoder['decoder_blocks.0.norm1.weight'] = torch.ones(4)
    final = {'norm.weight': torch.ones(C), 'norm.bias': torch.ones(C)}
    return dict(model={**weights, **final, **decoder}, epoch=3)


def visionfm(weights: Mapping[str, Tensor]) -> dict:
    """IBOT's teacher of several processes."""
    backbone = {**weights, 'masked_embed': torch.zeros(1, C)}
    teacher = {f'module.backbone.{n}': v for n, v in backbone.items()}
    return dict(teacher={**teacher, 'module.head.mlp.0.weight': torch.ones(1)})


def _tables(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return rename(
        weights,
        (r'ls([12])\.gamma', r'gamma_\1'),
        (r'attn\.rel_pos_bias\.', 'attn.'),
    )


def beit_finetuned(weights: Mapping[str, Tensor]) -> dict:
    index = {
        f'blocks.{i}.attn.relative_position_index': torch.zeros(17, 17).long()
        for i in range(SMALL['num_layers'])
    }
    head = {'fc_norm.weight': torch.ones(C), 'head.weight': torch.ones(5, C)}
    return dict(model={**_tables(weights), **index, **head})


def eva02_release(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    file = rename(
        weights, (r'mlp\.fc2', 'mlp.w3'), (r'mlp\.norm', 'mlp.ffn_ln')
    )
    for i in range(SMALL['num_layers']):
        attn, mlp = f'blocks.{i}.attn.', f'blocks.{i}.mlp.'
        joined = file.pop(f'{attn}qkv.weight').chunk(3)
        for part, value in zip('qkv', joined, strict=True):
            file[f'{attn}{part}_proj.weight'] = value
        for kind in ('weight', 'bias'):
            gate, value = file.pop(f'{mlp}fc1.{kind}').chunk(2)
            file[f'{mlp}w1.{kind}'], file[f'{mlp}w2.{kind}'] = gate, value
        file[f'{attn}rope.freqs_cos'] = torch.ones(16, 8)
    return {**file, 'rope.freqs_cos': torch.ones(16, 8)}


# Preset: what its authors' file looks like.
FILES = {
    'dinov2-g': dinov2_release,
    'dinov2-reg-g': dinov2_release,
    'retfound-dinov2-l': dinov2_training,
    'dinov3-h+': dinov3_release,
    'retfound-mae-l': mae_training,
    'visionfm-b': visionfm,
    'beit-b': beit_finetuned,
    'eva02-b': eva02_release,
}


@pytest.mark.parametrize('preset', FILES)
def test_the_authors_file_loads_whole(preset: str, tmp_path: Path) -> None:
    source, target = model(preset), model(preset)
    path = tmp_path / 'weights.pth'
    torch.save(FILES[preset](source.state_dict()), path)
    receipt = load_pretrained(target, str(path))
    assert set(receipt.matched) == set(target.state_dict())
    assert not receipt.changes
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


@pytest.mark.parametrize('preset', FILES)
def test_a_misspelt_name_fails_and_is_named(
    preset: str, tmp_path: Path
) -> None:
    file = FILES[preset](model(preset).state_dict())
    (inside,) = [v for v in file.values() if isinstance(v, dict)] or [file]
    kinds = {re.sub(r'\d', '#', name): name for name in inside}
    computed = r'(mask|index|freqs_cos|periods)$'
    extra = r'mask|decoder|head|local_cls|^norm|fc_norm'
    for name in kinds.values():
        if re.search(computed, name) or re.search(extra, name):
            continue
        wrong = f'{name}_typo'
        inside[wrong] = inside.pop(name)
        torch.save(file, tmp_path / 'weights.pth')
        with pytest.raises(WeightsError, match=re.escape(wrong)):
            load_pretrained(model(preset), str(tmp_path / 'weights.pth'))
        inside[name] = inside.pop(wrong)


def test_shared_table_of_beits_pretraining_goes_to_every_block(
    tmp_path: Path,
) -> None:
    source = VisionTransformer(
        {**PRESETS['beit-b'], **SMALL, 'rel_pos_bias': 'shared'}
    ).eval()
    for parameter in source.parameters():
        nn.init.normal_(parameter, std=0.2)
    extra = {
        'mask_token': torch.ones(1, 1, C),
        'lm_head.weight': torch.ones(1),
    }
    extra['rel_pos_bias.relative_position_index'] = torch.zeros(17, 17).long()
    file = dict(model={**_tables(source.state_dict()), **extra})
    torch.save(file, tmp_path / 'beit.pth')
    target = model('beit-b').eval()
    receipt = load_pretrained(target, str(tmp_path / 'beit.pth'))
    assert [c.kind for c in receipt.changes] == ['set', 'set']
    image = torch.randn(1, 3, 24, 40)
    with torch.no_grad():
        torch.testing.assert_close(target(image), source(image))
