import ast
import importlib.util
import math
from pathlib import Path

import pytest
from mmengine.optim import build_optim_wrapper
from mmseg.engine.optimizers.layer_decay_optimizer_constructor import (
    LearningRateDecayOptimizerConstructor,
    get_stage_id_for_convnext,
)
from mmseg.models import backbones as mmseg
from torch import nn

from upernet_ext.engine.optimizers.layer_decay import (
    LayerDecayConstructor,
    layer_depth,
)
from upernet_ext.models.backbones import (
    TransformersBackbone,
    VisionTransformer,
)

# Of mmseg's own BEiT, once a process.
pytestmark = pytest.mark.filterwarnings('ignore:torch.meshgrid')

LR, DECAY = 1e-3, 0.05
ADAMW = dict(optimizer=dict(type='AdamW', lr=LR, weight_decay=DECAY))


class Segmentor(nn.Module):
    """A backbone and a head: all that a constructor looks at."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.decode_head = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))


def tiny_vit(cls=mmseg.MAE, **kwargs):
    sizes = dict(embed_dims=8, num_layers=4, num_heads=2)
    return cls(img_size=32, out_indices=[0, 1, 2, 3], **sizes, **kwargs)


def options(model, names_key='param_names', cls=LayerDecayConstructor, **cfg):
    """Return ``{name: (learning rate, weight decay)}``."""
    groups = cls(ADAMW, cfg)(model).optimizer.param_groups
    return {
        name: (group['lr'], group['weight_decay'])
        for group in groups
        for name in group[names_key]
    }


def learning_rates(model, **cfg):
    return {name: lr for name, (lr, _) in options(model, **cfg).items()}


@pytest.mark.parametrize('cls', [mmseg.BEiT, mmseg.MAE])
def test_numbers_are_those_of_mmseg(cls):
    model = Segmentor(tiny_vit(cls, init_values=0.1))
    ours = options(model, layer_decay_rate=0.65)
    theirs = options(
        model,
        cls=LearningRateDecayOptimizerConstructor,
        num_layers=4,
        decay_rate=0.65,
    )
    assert ours.keys() == theirs.keys()
    for name, (lr, decay) in theirs.items():
        assert math.isclose(ours[name][0], lr), name
        # mmseg looks for 'pos_embed' where the name is 'backbone.pos_embed',
        # and decays what it means to spare.
        spared = name.endswith(
            ('pos_embed', 'cls_token', 'relative_position_bias_table')
        )
        assert ours[name][1] == (0 if spared else decay), name


def test_our_vit_counts_as_mmseg_s():
    ours = learning_rates(
        Segmentor(
            VisionTransformer(
                dict(embed_dims=8, num_layers=4, num_heads=2),
                img_size=32,
                out_indices=(0, 1, 2, 3),
                init_values=0.1,
                final_norm=True,
            )
        ),
        layer_decay_rate=0.65,
    )
    theirs = learning_rates(
        Segmentor(tiny_vit()),
        cls=LearningRateDecayOptimizerConstructor,
        num_layers=4,
        decay_rate=0.65,
    )
    for ours_name, theirs_name in {
        'cls_token': 'cls_token',
        'pos_embed': 'pos_embed',
        'patch_embed.proj.weight': 'patch_embed.projection.weight',
        **{
            f'blocks.{i}.{a}': f'layers.{i}.{b}'
            for i in range(4)
            for a, b in [
                ('norm1.weight', 'ln1.weight'),
                ('attn.qkv.weight', 'attn.qkv.weight'),
                ('ls1.gamma', 'gamma_1'),
                ('mlp.fc2.bias', 'ffn.layers.1.bias'),
            ]
        },
    }.items():
        assert math.isclose(
            ours[f'backbone.{ours_name}'], theirs[f'backbone.{theirs_name}']
        ), ours_name
    assert ours['backbone.norm.weight'] == ours['decode_head.0.weight'] == LR


def convnext(depths):
    return TransformersBackbone(
        'convnext',
        dict(depths=depths, hidden_sizes=[4, 8, 8, 8], num_stages=4),
    )


def mmpretrain_name(name):
    """Name a parameter of transformers' ConvNeXt as mmpretrain does."""
    if not name.startswith('backbone.'):
        return name
    parts = name.removeprefix('backbone.model.').split('.')
    if parts[0] == 'embeddings':
        return 'backbone.downsample_layers.0.0.weight'
    if parts[0] == 'hidden_states_norms':
        return 'backbone.norm0.weight'
    stage = parts[2]
    if parts[3] == 'downsampling_layer':
        return f'backbone.downsample_layers.{stage}.0.weight'
    return f'backbone.stages.{stage}.{parts[4]}.weight'


@pytest.mark.parametrize(
    ('depths', 'num_layers'), [([3, 3, 9, 3], 6), ([3, 3, 12, 3], 12)]
)
def test_convnext_numbers_are_those_of_mmseg(depths, num_layers):
    """The recipe of mmseg: decay_type='stage_wise' and its num_layers."""
    ours = learning_rates(Segmentor(convnext(depths)), layer_decay_rate=0.9)
    for name in ours:
        theirs = get_stage_id_for_convnext(
            mmpretrain_name(name), num_layers + 2
        )
        expected = LR * 0.9 ** (num_layers + 1 - theirs)
        assert math.isclose(ours[name], expected), name
    assert ours['decode_head.0.weight'] == LR


def mmpretrain_rule(module, cls):
    """Read a ``get_layer_depth`` that needs torchvision to be imported."""
    root = Path(importlib.util.find_spec('mmpretrain').origin).parent
    tree = ast.parse((root / f'models/backbones/{module}.py').read_text())
    functions = [
        function
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == cls
        for function in node.body
        if getattr(function, 'name', '') == 'get_layer_depth'
    ]
    namespace = {'math': math}
    exec(compile(ast.Module(functions, []), module, 'exec'), namespace)
    return namespace['get_layer_depth']


@pytest.mark.parametrize('depth', [50, 101, 152])
def test_resnet_counts_as_mmpretrain(depth):
    backbone = mmseg.ResNetV1c(depth=depth)
    rule = mmpretrain_rule('resnet', 'ResNet')
    for name, _ in backbone.named_parameters():
        assert layer_depth(backbone, name) == rule(
            backbone, f'backbone.{name}', 'backbone.'
        ), name


def test_swin_counts_as_mmpretrain():
    backbone = mmseg.SwinTransformer(
        embed_dims=4, depths=(2, 2, 3, 1), num_heads=(1, 1, 1, 1)
    )
    backbone.depths = (2, 2, 3, 1)
    rule = mmpretrain_rule('swin_transformer', 'SwinTransformer')
    for name, _ in backbone.named_parameters():
        assert layer_depth(backbone, name) == rule(backbone, name), name


BACKBONES = {
    'resnet18': lambda: mmseg.ResNet(18),
    'resnet34': lambda: mmseg.ResNetV1c(depth=34),
    'mobilenet_v2': mmseg.MobileNetV2,
    'mae': tiny_vit,
    'vit of mmseg': lambda: tiny_vit(mmseg.VisionTransformer, final_norm=True),
    'swin': lambda: mmseg.SwinTransformer(
        embed_dims=4, num_heads=(1, 1, 1, 1)
    ),
    'vit': lambda: VisionTransformer('t', img_size=32),
}


@pytest.mark.parametrize('build', BACKBONES.values(), ids=BACKBONES)
def test_every_layer_is_met(build):
    backbone = build()
    met = {layer_depth(backbone, n) for n, _ in backbone.named_parameters()}
    (total,) = {total for _, total in met}
    layers = {layer for layer, _ in met}
    # The last layer is that of the heads; a backbone's own end may be in it.
    assert layers | {total - 1} == set(range(total))
    assert 0 in layers


def test_a_constructor_that_asks_with_a_prefix():
    class AsMmpretrain(nn.Linear):
        def get_layer_depth(self, param_name, prefix=''):
            assert param_name == 'backbone.weight'
            assert prefix == 'backbone.'
            return 0, 3

    model = Segmentor(AsMmpretrain(2, 2, bias=False))
    rates = learning_rates(model, layer_decay_rate=0.5, num_layers=1)
    assert rates['backbone.weight'] == LR / 4


def test_no_decay_for_norms_biases_positions_and_tokens():
    vit = VisionTransformer('t', img_size=32, init_values=0.1, final_norm=True)
    swin = mmseg.SwinTransformer(
        embed_dims=4, num_heads=(1, 1, 1, 1), use_abs_pos_embed=True
    )
    for backbone, spared, decayed in [
        (
            vit,
            {'cls_token', 'pos_embed', 'blocks.0.ls1.gamma', 'norm.weight'},
            {'patch_embed.proj.weight', 'blocks.11.mlp.fc1.weight'},
        ),
        (
            swin,
            {
                'absolute_pos_embed',
                'stages.0.blocks.0.attn.w_msa.relative_position_bias_table',
                'stages.0.blocks.0.attn.w_msa.qkv.bias',
            },
            {'stages.0.downsample.reduction.weight'},
        ),
    ]:
        found = options(Segmentor(backbone))
        assert {lr for lr, _ in found.values()} == {LR}
        assert {found[f'backbone.{n}'][1] for n in spared} == {0}
        assert {found[f'backbone.{n}'][1] for n in decayed} == {DECAY}
        assert found['decode_head.0.weight'][1] == DECAY
        assert found['decode_head.0.bias'][1] == 0
        assert found['decode_head.1.weight'][1] == 0


def test_custom_keys_multiply_and_the_longest_wins():
    model = Segmentor(VisionTransformer('t', img_size=32))
    found = options(
        model,
        layer_decay_rate=0.5,
        custom_keys={
            'decode_head': dict(lr_mult=10.0),
            'decode_head.1': dict(lr_mult=3.0),
            'blocks.11.': dict(lr_mult=2.0, decay_mult=0.1),
        },
    )
    assert math.isclose(found['decode_head.0.weight'][0], 10 * LR)
    assert math.isclose(found['decode_head.1.weight'][0], 3 * LR)
    lr, decay = found['backbone.blocks.11.mlp.fc1.weight']
    assert math.isclose(lr, 2 * 0.5 * LR)
    assert math.isclose(decay, 0.1 * DECAY)


def test_frozen_parameters_are_left_out_and_all_others_are_in():
    model = Segmentor(VisionTransformer('t', img_size=32))
    model.backbone.patch_embed.requires_grad_(False)
    found = options(model, layer_decay_rate=0.9)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(found) == trained
    assert not any('patch_embed' in name for name in found)


def test_an_optimiser_without_weight_decay_keeps_its_own():
    model = Segmentor(VisionTransformer('t', img_size=32))
    cfg = dict(optimizer=dict(type='SGD', lr=LR))
    groups = LayerDecayConstructor(cfg)(model).optimizer.param_groups
    assert [group['weight_decay'] for group in groups] == [0, 0]


def test_it_is_built_by_its_registered_name_and_schedules_scale():
    model = Segmentor(VisionTransformer('t', img_size=32))
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper',
            constructor='upernet_ext.LayerDecayConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.9),
            **ADAMW,
        ),
    )
    assert min(wrapper.get_lr()['lr']) == pytest.approx(LR * 0.9**13)
    assert max(wrapper.get_lr()['lr']) == LR


@pytest.mark.parametrize(
    ('cfg', 'message'),
    [
        (dict(layer_decay=0.9), 'no option.*layer_decay.*layer_decay_rate'),
        (dict(layer_decay_rate=1.5), r'in \(0, 1\]'),
        (dict(custom_keys=dict(a=dict(lr=1))), 'takes lr_mult'),
        (dict(layer_decay_rate=0.9, num_layers=13), 'has 12 layers'),
    ],
)
def test_a_wrong_option_is_named(cfg, message):
    model = Segmentor(VisionTransformer('t', img_size=32))
    with pytest.raises(ValueError, match=message):
        options(model, **cfg)


def test_an_unknown_backbone_says_how_to_tell_its_depth():
    model = Segmentor(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match=r'Sequential.*get_layer_depth'):
        options(model, layer_decay_rate=0.9)
    assert options(model)['backbone.0.weight'] == (LR, DECAY)
