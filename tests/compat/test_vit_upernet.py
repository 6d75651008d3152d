import importlib
import inspect

import pytest
import torch
from mmengine.logging import MMLogger
from torch.nn import functional as F  # noqa: N812

from upernet_ext.compat.vit_upernet import (
    BACKBONES,
    create_segmentation_model,
)
from upernet_ext.interop import WeightsError
from upernet_ext.models import EncoderDecoder, VisionTransformer

SMALL = dict(num_classes=4, hidden_size=8)


@pytest.fixture
def log(caplog):
    """What is logged, as one text."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    yield lambda: '\n'.join(r.getMessage() for r in caplog.records)
    logger.removeHandler(caplog.handler)


def trained(module):
    return [n for n, p in module.named_parameters() if p.requires_grad]


def test_the_signature_is_the_one_that_trainers_call():
    module = importlib.import_module('upernet_ext.compat.vit_upernet')
    parameters = inspect.signature(module.create_segmentation_model).parameters
    defaults = {
        name: p.default
        for name, p in parameters.items()
        if p.kind is p.POSITIONAL_OR_KEYWORD
    }
    assert list(defaults.items()) == [
        ('backbone_name', 'dinov3'),
        ('backbone_size', 'large'),
        ('num_classes', 1),
        ('checkpoint_path', None),
        ('freeze_backbone', False),
        ('use_lora', True),
        ('lora_rank', 8),
        ('lora_alpha', 16.0),
        ('lora_dropout', 0.05),
        ('lora_target_modules', None),
        ('hidden_size', 512),
        ('pool_scales', (1, 2, 3, 6)),
    ]
    assert parameters['kwargs'].kind is inspect.Parameter.VAR_KEYWORD


def test_a_dinov2_gives_logits_of_the_image_with_and_without_lora(log):
    model = create_segmentation_model('dinov2', 'base', **SMALL).eval()
    assert 'RANDOM weights' in log()
    assert model.backbone.patch_size == (14, 14)
    for name in model.state_dict():
        if 'lora_B' in name:
            torch.nn.init.normal_(model.get_parameter(name), std=0.05)
    with torch.no_grad():
        for size in ((224, 224), (237, 189)):
            image = torch.randn(2, 3, *size)
            logits = model(image)
            assert logits.shape == (2, 4, *size)
            assert logits.isfinite().all()
        model.disable_lora()
        assert not model.has_lora
        # The head divides by the deviation of nearly flat random maps.
        torch.testing.assert_close(model(image), logits, rtol=1e-4, atol=1e-5)

    assert not trained(model.backbone)
    model.enable_lora(
        rank=2, lora_alpha=4, lora_dropout=0.0, target_modules=['attn.proj']
    )
    names = trained(model.backbone)
    assert len(names) == 24
    assert all('.attn.proj.lora_' in name for name in names)
    layer = model.backbone.blocks[0].attn.proj
    assert layer.scaling['default'] == 2
    assert layer.lora_A.default.weight.shape == (2, 768)
    with pytest.raises(ValueError, match='has adapters'):
        model.enable_lora()


def test_a_saved_model_comes_back_as_it_is(tmp_path):
    model = create_segmentation_model('visionfm', 'base', **SMALL).eval()
    model.save_pretrained(tmp_path)
    again = EncoderDecoder.from_pretrained(tmp_path)
    assert type(again) is type(model)
    assert again.has_lora
    torch.testing.assert_close(
        again.state_dict(), model.state_dict(), rtol=0, atol=0
    )


def test_the_flow_is_that_of_the_trainers_model():
    """Normed maps of four blocks, the head, the upsampler, one resize."""
    model = create_segmentation_model(
        'retfound', 'base', use_lora=False, **SMALL
    ).eval()
    vit, head = model.backbone, model.decode_head
    assert vit.out_indices == (2, 5, 8, 11)
    assert model.upsampler is head.upsampler
    assert not model.with_neck
    image = torch.randn(1, 3, 40, 33)
    with torch.no_grad():
        padded = F.pad(image, (0, 15, 0, 8), mode='reflect')
        tokens = []
        handles = [
            vit.blocks[i].register_forward_hook(
                lambda m, i, out: tokens.append(out)
            )
            for i in (2, 5, 8, 11)
        ]
        vit(padded)
        for handle in handles:
            handle.remove()
        maps = [
            vit.norm(t)[:, 1:].transpose(1, 2).unflatten(2, (3, 3))
            for t in tokens
        ]
        levels = head._pyramid(maps)
        fused = head.fpn_bottleneck(torch.cat(levels, 1))
        logits = head.conv_seg(model.upsampler(fused))
        assert logits.shape[2:] == (12, 12)
        expected = F.interpolate(logits, (48, 48), mode='bilinear')
        torch.testing.assert_close(
            model(image), expected[..., :40, :33], rtol=1e-5, atol=1e-6
        )
    assert len(head.psp_modules) == 4


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(backbone_name='sam'), "'dinov2'.*'visionfm'.*got 'sam'"),
        (
            dict(backbone_size='small'),
            r"dinov3 of backbone_size='small' \(12 blocks\) is not.*'base'",
        ),
        (
            dict(backbone_name='dinov2', backbone_size='giant'),
            r"'giant' \(40 blocks\).*'large' \(24 blocks\)",
        ),
        (dict(backbone_size='7b'), r"'7b' \(40 blocks\)"),
        (dict(backbone_size='wide'), "'wide' is not supported"),
    ],
)
def test_others_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_segmentation_model(**arguments)


@pytest.mark.parametrize('size', ['base', 'large'])
@pytest.mark.parametrize('name', BACKBONES)
def test_every_backbone_has_its_depth_patch_and_blocks(name, size):
    with torch.device('meta'):
        vit = VisionTransformer(BACKBONES[name][size], final_norm=True)
    depth, dims = dict(base=(12, 768), large=(24, 1024))[size]
    assert len(vit.blocks) == depth
    assert vit.out_channels == (dims,) * 4
    assert vit.patch_size == ((14, 14) if name == 'dinov2' else (16, 16))
    blocks = {12: (2, 5, 8, 11), 24: (5, 11, 17, 23)}[depth]
    if (name, size) == ('dinov3', 'large'):
        blocks = (4, 11, 17, 23)
    assert vit.out_indices == blocks
    assert vit.norm is not None


def test_freezing_gives_way_to_adapters_and_unknown_arguments_warn(log):
    with pytest.warns(UserWarning, match=r"does not use \['img_size'\]"):
        model = create_segmentation_model(
            *('retfound', 'base'),
            freeze_backbone=True,
            lora_rank=2,
            lora_alpha=3.0,
            lora_dropout=0.25,
            img_size=512,
            **SMALL,
        )
    assert 'freeze_backbone=True gives way' in log()
    assert 'retfound has no published weights' in log()
    layer = model.backbone.blocks[0].attn.qkv
    assert layer.scaling['default'] == 1.5
    assert layer.lora_dropout['default'].p == 0.25
    names = trained(model.backbone)
    assert len(names) == 24
    assert all('.qkv.lora_' in name for name in names)

    model.print_trainable_parameters()
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f'trainable parameters: {count:,} of' in log()
    model.print_trainable_parameters(detailed=True)
    table = log().split('trainable parameters')[1].splitlines()[1:]
    rows = {row.split()[0]: row.split()[1:] for row in table}
    assert list(rows) == [
        *('module', 'backbone', 'decode_head', 'upsampler', 'total')
    ]
    # A of 768 x 2 and B of 2 x 2304, in each of twelve blocks.
    assert rows['backbone'][0] == f'{12 * 2 * (768 + 2304):,}'
    # Four convolutions of 8 x 8 x 3 x 3, each with a norm of 8 + 8.
    assert rows['upsampler'][:2] == [f'{4 * (576 + 16):,}'] * 2
    assert rows['total'][0] == f'{count:,}'


def test_a_checkpoint_fills_the_backbone_or_is_refused(tmp_path, log):
    vit = VisionTransformer('visionfm-b')
    torch.nn.init.normal_(vit.cls_token)
    path = tmp_path / 'vit.pth'
    torch.save(dict(model=vit.state_dict()), path)
    model = create_segmentation_model(
        *('visionfm', 'base'),
        checkpoint_path=str(path),
        freeze_backbone=True,
        use_lora=False,
        **SMALL,
    )
    assert 'RANDOM' not in log()
    assert str(path) in model.receipt.summary()
    for name, value in vit.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], value)
    model.train()
    assert not trained(model.backbone)
    assert not model.backbone.training
    assert len(trained(model.decode_head)) == len(
        list(model.decode_head.parameters())
    )

    broken = vit.state_dict()
    broken['blocks.3.attn.proj.weights'] = broken.pop(
        'blocks.3.attn.proj.weight'
    )
    torch.save(broken, path)
    with pytest.raises(WeightsError, match=r'blocks\.3\.attn\.proj\.weight'):
        create_segmentation_model(
            'visionfm', 'base', checkpoint_path=str(path), **SMALL
        )


@pytest.mark.slow
@pytest.mark.parametrize('name', BACKBONES)
def test_large_backbones_run(name):
    model = create_segmentation_model(name, 'large', **SMALL).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 37, 50)).shape == (1, 4, 37, 50)
