"""Both heads equal medicai's, by copied weights, on medicai's own encoders.

medicai (Keras, https://github.com/innat/medic-ai) 0.0.4 runs on torch here.
Its encoders are small ones with random weights; every weight of the decoder
and every statistic of its norms is drawn anew. ``reference/compare_medicai``
prints the differences.
"""

import warnings
from types import ModuleType

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from upernet_ext.models.backbones.encoder import PyramidLevel
from upernet_ext.registry import MODELS

NUM_CLASSES = 3
WIDTH = 8
# Keras's epsilon.
NORM = dict(type='BN', eps=1e-3)
# The deepest map has 3 pixels an axis, or 6: medicai pools to more cells than
# pixels, we clip the grid, and for these sizes that is the same.
SIZES = {2: (96, 192), 3: (96, 96, 96)}
CONVNEXT = dict(depths=[1] * 4, projection_dims=[4, 6, 8, 10])
RESNET = dict(
    conv_filters=[64],
    conv_kernel_sizes=[7],
    num_filters=[64, 6, 8, 10],
    num_blocks=[1] * 4,
    num_strides=[1, 2, 2, 2],
    block_type='basic_block',
)


def import_medicai() -> tuple[ModuleType, ModuleType]:
    """Import Keras on torch, and medicai's models."""
    with warnings.catch_warnings():
        # Of Keras and medicai themselves.
        warnings.simplefilter('ignore')
        import keras
        from medicai import models

    return keras, models


class KerasEncoder(nn.Module):
    """One of medicai's encoders behind our door."""

    def __init__(self, keras: ModuleType, encoder: nn.Module) -> None:
        super().__init__()
        maps = encoder.pyramid_outputs
        self.run = keras.Model(encoder.inputs, list(maps.values()))
        size = encoder.inputs[0].shape[1:-1]
        self.pyramid_outputs = {
            name: PyramidLevel(
                x.shape[-1],
                tuple(s / m for s, m in zip(size, x.shape[1:-1], strict=True)),
            )
            for name, x in maps.items()
        }

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.run(x.movedim(1, -1), training=False)
        return [m.movedim(-1, 1) for m in maps]


def randomise(model: nn.Module) -> None:
    """Give norms statistics and affines that matter, logits a scale."""
    for weight in model.weights:
        draw = torch.randn(tuple(weight.shape))
        if 'variance' in weight.path:
            weight.assign(0.5 + draw.abs())
        elif len(weight.shape) == 1:
            weight.assign(0.2 * draw + ('gamma' in weight.path))


def kernel(weight: Tensor, *, depthwise: bool = False) -> Tensor:
    """Keras's kernel ``(*k, in, out)`` -> torch's ``(out, in, *k)``.

    That of a depthwise layer is ``(*k, in, 1)``, torch's ``(in, 1, *k)``.
    """
    *_, before, after = range(weight.ndim)
    channels = (before, after) if depthwise else (after, before)
    return weight.permute(*channels, *range(before))


def conv_and_norm(conv: nn.Module, norm: nn.Module, name: str) -> dict:
    """State dict of a ConvModule."""
    values = [w.value for w in norm.weights]
    names = ('weight', 'bias', 'running_mean', 'running_var')
    return {
        f'{name}.conv.weight': kernel(conv.kernel.value),
        **{
            f'{name}.bn.{key}': value
            for key, value in zip(names, values, strict=True)
        },
    }


def separable_and_norm(conv: nn.Module, norm: nn.Module, name: str) -> dict:
    """State dict of a separable module: Keras's layer, or medicai's in 3D."""
    if hasattr(conv, 'depthwise_conv'):
        depthwise = kernel(conv.depthwise_conv.kernel.value)
        state = conv_and_norm(conv.pointwise_conv, norm, 'pointwise_conv')
    else:
        depthwise = kernel(conv.depthwise_kernel.value, depthwise=True)
        state = conv_and_norm(
            Kernel(conv.pointwise_kernel), norm, 'pointwise_conv'
        )
    state['depthwise_conv.conv.weight'] = depthwise
    return {f'{name}.{key}': value for key, value in state.items()}


class Kernel:
    """A layer of which only the kernel is known."""

    def __init__(self, kernel: object) -> None:
        self.kernel = kernel


def classifier(model: nn.Module) -> dict:
    """State dict of ``conv_seg``: the only convolution with a bias."""
    conv = [
        layer
        for layer in model.layers
        if getattr(layer, 'filters', None) == NUM_CLASSES
    ][-1]
    return {
        'conv_seg.weight': kernel(conv.kernel.value),
        'conv_seg.bias': conv.bias.value,
    }


def upernet_weights(model: nn.Module, spatial_dims: int) -> dict:
    """medicai's UPerNet decoder -> state dict of ``UPerHead``."""
    names = {
        'ppm_final_3x3': 'bottleneck',
        'fpn_fusion_3x3': 'fpn_bottleneck',
    }
    for i, scale in enumerate((1, 2, 3, 6)):
        names[f'ppm_conv_1x1_s{scale}'] = f'psp_modules.{i}.1'
    for i in range(3):
        names[f'fpn_lateral_1x1_p{i + 1}'] = f'lateral_convs.{i}'
        names[f'fpn_conv_3x3_p{i + 1}'] = f'fpn_convs.{i}'
    state = classifier(model)
    for theirs, ours in names.items():
        conv, norm = (
            model.get_layer(f'upernet_decoder_{theirs}_{x}_{spatial_dims}D')
            for x in ('conv', 'norm')
        )
        state.update(conv_and_norm(conv, norm, ours))
    return state


def deeplab_weights(model: nn.Module, spatial_dims: int) -> dict:
    """medicai's DeepLabV3Plus decoder -> state dict of our head."""
    aspp = model.get_layer('aspp')
    state = classifier(model)
    *branches, pool = aspp.aspp_parallel_channels
    for i, branch in enumerate(branches):
        conv, norm, _ = branch.layers
        separable = 'Separable' in type(conv).__name__
        copy = separable_and_norm if separable else conv_and_norm
        state.update(copy(conv, norm, f'aspp_modules.{i}'))
    _, conv, norm, _ = pool.layers
    state.update(conv_and_norm(conv, norm, 'image_pool.1'))
    conv, norm, *_ = aspp.projection.layers
    state.update(conv_and_norm(conv, norm, 'bottleneck'))
    # Its pooled branch comes last, ours (as mmseg's) first.
    state['bottleneck.conv.weight'] = state['bottleneck.conv.weight'].roll(
        WIDTH, 1
    )
    for copy, names, ours in (
        (conv_and_norm, ('low_level_projection',) * 2, 'c1_bottleneck'),
        (separable_and_norm, ('aspp_projection',) * 2, 'sep_bottleneck.0'),
        (
            separable_and_norm,
            ('decoder_conv1', 'decoder_conv'),
            'sep_bottleneck.1',
        ),
    ):
        conv = model.get_layer(names[0])
        norm = model.get_layer(f'{names[1]}_bn')
        state.update(copy(conv, norm, ours))
    return state


def build_encoder(models: ModuleType, name: str, size: tuple) -> nn.Module:
    kinds = dict(
        convnext=(models.ConvNeXtBackbone, CONVNEXT),
        resnet=(models.ResNetBackbone, RESNET),
    )
    cls, arguments = kinds[name]
    return cls(input_shape=(*size, 2), **arguments)


def both(
    architecture: str,
    encoder_name: str,
    spatial_dims: int,
    *,
    upsample: int = 4,
    activation: str = 'sigmoid',
    theirs_options: dict | None = None,
    ours_options: dict | None = None,
) -> tuple[nn.Module, nn.Module]:
    """Build medicai's model and ours, on one encoder, with its weights."""
    keras, models = import_medicai()
    encoder = build_encoder(models, encoder_name, SIZES[spatial_dims])
    upernet = architecture == 'upernet'
    width = 'decoder_filters' if upernet else 'decoder_channels'
    build = models.UPerNet if upernet else models.DeepLabV3Plus
    theirs = build(
        encoder=encoder,
        num_classes=NUM_CLASSES,
        classifier_activation=activation,
        head_upsample=upsample,
        **{width: WIDTH},
        **(theirs_options or {}),
    )
    randomise(theirs)
    head = (
        dict(type='upernet_ext.UPerHead', top_down='fused')
        if upernet
        else dict(
            type='upernet_ext.DeepLabV3PlusHead',
            flow='medicai',
            rates='fixed',
            low_level='P2',
        )
    )
    with DefaultScope.overwrite_default_scope('mmseg'):
        ours = MODELS.build(
            dict(
                type='upernet_ext.EncoderDecoder',
                backbone=KerasEncoder(keras, encoder),
                decode_head=dict(
                    head,
                    channels=WIDTH,
                    norm_cfg=NORM,
                    **(ours_options or {}),
                ),
                num_classes=NUM_CLASSES,
                in_channels=2,
                spatial_dims=spatial_dims,
                multi_label=activation == 'sigmoid',
                classifier_activation=activation,
            )
        )
    weights = upernet_weights if upernet else deeplab_weights
    missing, extra = ours.decode_head.load_state_dict(
        weights(theirs, spatial_dims), strict=False
    )
    assert not extra
    assert all(key.endswith('num_batches_tracked') for key in missing)
    return ours.eval(), theirs


@torch.no_grad()
def difference(ours: nn.Module, theirs: nn.Module) -> tuple[float, float]:
    """Compare the predictions on an image at its size.

    Returns:
        Largest difference, and standard deviation of medicai's.
    """
    size = theirs.inputs[0].shape[1:-1]
    image = torch.randn(2, 2, *size)
    wanted = theirs(image.movedim(1, -1), training=False).movedim(-1, 1)
    found = ours(image)
    assert found.shape == wanted.shape == (2, NUM_CLASSES, *size)
    return (found - wanted).abs().max().item(), wanted.std().item()


CASES = {
    'UPerNet, five levels': ('upernet', 'resnet', {}),
    'UPerNet, four levels': (
        'upernet',
        'convnext',
        dict(activation='softmax'),
    ),
    'DeepLabV3+, five levels': (
        'deeplabv3plus',
        'resnet',
        dict(activation='softmax'),
    ),
    'DeepLabV3+, convolutions that are not separable, rates 1 to 3': (
        'deeplabv3plus',
        'resnet',
        dict(
            theirs_options=dict(
                encoder_depth=4,
                decoder_aspp_separable=False,
                decoder_dilation_rates=(2, 3),
                projection_filters=5,
            ),
            ours_options=dict(
                encoder_depth=4,
                separable=False,
                dilations=(1, 2, 3),
                c1_channels=5,
            ),
        ),
    ),
    # medicai's own example of a custom encoder: P2 is at stride 8.
    'DeepLabV3+, ConvNeXt, encoder_depth=4, head_upsample=8': (
        'deeplabv3plus',
        'convnext',
        dict(
            upsample=8,
            theirs_options=dict(encoder_depth=4, decoder_dilation_rates=(2,)),
            ours_options=dict(encoder_depth=4, dilations=(1, 2)),
        ),
    ),
}


@pytest.mark.needs_medicai
@pytest.mark.parametrize('spatial_dims', [2, 3])
@pytest.mark.parametrize('case', CASES)
def test_model_equals_medicai(case: str, spatial_dims: int) -> None:
    architecture, encoder, options = CASES[case]
    ours, theirs = both(architecture, encoder, spatial_dims, **options)
    largest, spread = difference(ours, theirs)
    # About 4e-6 of a standard deviation is what fp32 leaves.
    assert largest < 1e-4 * spread


# Parameters of the decoders on medicai's encoders, for 14 classes, in 2D and
# 3D: model.count_params() less the encoder's. Keras counts the statistics of
# the norms too.
P2_TO_P5 = dict(
    efficientnet_b0=[24, 40, 112, 1280],
    resnet50=[256, 512, 1024, 2048],
    densenet121=[256, 512, 1024, 1024],
)
TOTALS = dict(
    UPerHead=dict(
        efficientnet_b0=(10_808_846, 29_683_214),
        resnet50=(13_778_446, 36_191_758),
        densenet121=(10_370_574, 28_065_294),
    ),
    DeepLabV3PlusHead=dict(
        efficientnet_b0=(2_162_174, 2_241_374),
        resnet50=(3_177_086, 3_297_758),
        densenet121=(1_838_718, 1_904_094),
    ),
)


@pytest.mark.parametrize('spatial_dims', [2, 3])
@pytest.mark.parametrize('encoder', P2_TO_P5)
@pytest.mark.parametrize('kind', TOTALS)
def test_decoder_has_as_many_parameters(
    kind: str, encoder: str, spatial_dims: int
) -> None:
    channels = P2_TO_P5[encoder]
    options = dict(in_channels=channels)
    if kind == 'DeepLabV3PlusHead':
        options = dict(in_channels=channels[::3], flow='medicai')
    with torch.device('meta'):
        head = MODELS.build(
            dict(
                type=f'upernet_ext.{kind}',
                channels=256,
                num_classes=14,
                norm_cfg=NORM,
                spatial_dims=spatial_dims,
                **options,
            )
        )
    found = sum(
        value.numel()
        for name, value in head.state_dict().items()
        if 'num_batches' not in name
    )
    assert found == TOTALS[kind][encoder][spatial_dims - 2]
