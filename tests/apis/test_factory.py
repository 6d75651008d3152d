import pytest
import torch
from mmengine.logging import MMLogger
from torch import nn

from upernet_ext.apis import build_model, list_encoders
from upernet_ext.layers.rank import conv
from upernet_ext.models.backbones.encoder import PyramidLevel


class Stages(nn.Module):
    """A made-up encoder: one strided convolution a level."""

    def __init__(self, channels, *, first_stride=2, spatial_dims=2):
        super().__init__()
        steps = [first_stride] + [2] * (len(channels) - 1)
        self.stages = nn.ModuleList(
            conv(i, o, 3, stride=s, spatial_dims=spatial_dims)
            for i, o, s in zip(
                (3, *channels[:-1]), channels, steps, strict=True
            )
        )
        self.pyramid_outputs = {
            f'P{n}': PyramidLevel(c, (first_stride * 2 ** (n - 1),) * 2)
            if spatial_dims == 2
            else PyramidLevel(c, first_stride * 2 ** (n - 1))
            for n, c in enumerate(channels, 1)
        }

    def forward(self, x):
        maps = {}
        for i, stage in enumerate(self.stages, 1):
            x = maps[f'P{i}'] = stage(x)
        return maps


FIVE, FOUR = (4, 6, 8, 10, 12), (4, 6, 8, 10)


def build(architecture='upernet', encoder=None, shape=(3, 64, 64), **kwargs):
    if encoder is None and 'encoder_name' not in kwargs:
        encoder = Stages(FIVE, spatial_dims=len(shape) - 1)
    return build_model(
        architecture,
        encoder=encoder,
        input_shape=shape,
        **{'decoder_filters': 8, **kwargs},
    ).eval()


def test_upernet_of_five_levels_pools_p5_and_leaves_p1():
    assert build().decode_head.in_channels == [6, 8, 10, 12]


def test_upernet_of_four_levels_takes_all():
    model = build(encoder=Stages(FOUR, first_stride=4))
    assert model.decode_head.in_channels == [4, 6, 8, 10]


def test_encoder_depth_leaves_the_deepest_levels_out():
    model = build(encoder_depth=4)
    assert model.decode_head.in_channels == [6, 8, 10]
    with torch.no_grad():
        first = model(torch.ones(1, 3, 64, 64))
        model.encoder.stages[4].weight.fill_(9)
        torch.testing.assert_close(model(torch.ones(1, 3, 64, 64)), first)


@pytest.mark.parametrize('depth', [2, 6])
def test_encoder_depth_out_of_range(depth):
    with pytest.raises(ValueError, match='between 3 and the 5 levels'):
        build(encoder_depth=depth)


@pytest.mark.parametrize('architecture', ['upernet', 'deeplabv3plus'])
@pytest.mark.parametrize('size', [(37, 50), (33, 40, 18)])
def test_output_has_the_size_of_the_input(architecture, size):
    model = build(architecture, shape=(3, *size), num_classes=4)
    inputs = torch.randn(2, 3, *size)
    assert model(inputs).shape == (2, 4, *size)
    # Logits are taken to the input by interpolation, not by repetition.
    assert model(inputs).flatten(2).unique(dim=2).shape[2] > 100


@pytest.mark.parametrize('size', [(64, 96), (32, 32, 64)])
def test_pyramid_outputs_tell_the_real_maps(size):
    model = build(shape=(3, *size))
    maps = model.encoder(torch.zeros(1, 3, *size))
    told = model.encoder.pyramid_outputs
    assert list(told) == [f'P{i}' for i in range(1, 6)]
    for name, level in told.items():
        assert level.shape == tuple(maps[name].shape[1:])
        assert level.channels == maps[name].shape[1]
        ratio = [s / n for s, n in zip(size, level.shape[1:], strict=True)]
        stride = level.stride
        assert ratio == (
            list(stride) if isinstance(stride, tuple) else [stride] * len(size)
        )


def test_a_model_is_built_in_silence(capsys):
    build()
    captured = capsys.readouterr()
    assert captured.out + captured.err == ''


def test_random_weights_are_announced(caplog):
    logger = MMLogger.get_current_instance()
    with caplog.at_level('WARNING'):
        logger.addHandler(caplog.handler)
        build(encoder_name='mobilenetv2_050')
        logger.removeHandler(caplog.handler)
    assert 'RANDOM weights' in caplog.text


def test_built_encoder_keeps_its_weights():
    encoder = Stages(FIVE)
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    model = build(encoder=encoder)
    assert model.encoder is encoder
    for name, value in model.encoder.state_dict().items():
        torch.testing.assert_close(value, before[name])


@pytest.mark.parametrize(
    ('activation', 'expected'),
    [
        (None, lambda x: x),
        ('sigmoid', torch.sigmoid),
        ('softmax', lambda x: x.softmax(1)),
    ],
)
def test_classifier_activation(activation, expected):
    model = build(num_classes=3, classifier_activation=activation)
    inputs = torch.randn(1, 3, 64, 64)
    logits = model.encode_decode(inputs)
    torch.testing.assert_close(model(inputs), expected(logits))
    assert model.decode_head.use_sigmoid == (activation == 'sigmoid')


def test_softmax_of_one_class_is_refused():
    with pytest.raises(ValueError, match='always 1'):
        build(num_classes=1, classifier_activation='softmax')
    with pytest.raises(ValueError, match='classifier_activation must be'):
        build(classifier_activation='tanh')


@pytest.mark.parametrize('architecture', ['upernet', 'deeplabv3plus'])
def test_head_upsample_is_checked(architecture):
    build(architecture, head_upsample=4)
    build(architecture, head_upsample=(4, 4))
    with pytest.raises(ValueError, match=r'at stride \(4, 4\)'):
        build(architecture, head_upsample=2)


@pytest.mark.parametrize(
    ('shape', 'hint'), [((256, 256, 3), '3, 256'), ((96, 96, 96, 1), '1, 96')]
)
def test_channels_last_is_refused(shape, hint):
    with pytest.raises(ValueError, match=rf'come first: \({hint}'):
        build_model('upernet', 'resnet18', input_shape=shape)


@pytest.mark.parametrize(
    'shape', [(3, 64), (1, 3, 64, 64, 64), (3, None, 64), (3, 0, 64)]
)
def test_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match='without the batch'):
        build_model('upernet', 'resnet18', input_shape=shape)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(), 'one of them'),
        (dict(encoder_name='resnet18', encoder=Stages(FIVE)), 'one of them'),
        (dict(encoder_name='resnet19'), "did you mean 'resnet1"),
        (dict(encoder=nn.Conv2d(3, 4, 1)), 'no pyramid_outputs'),
        (dict(encoder=Stages(FIVE, spatial_dims=2)), 'strides of 2 axes'),
    ],
)
def test_encoders_that_cannot_be(kwargs, message):
    with pytest.raises(ValueError, match=message):
        build_model('upernet', input_shape=(3, 64, 64, 64), **kwargs)


@pytest.mark.parametrize(
    ('argument', 'value'),
    [
        ('decoder_dilation_rates', (2, 4, 6)),
        ('decoder_aspp_separable', False),
        ('decoder_aspp_dropout', 0.1),
        ('projection_filters', 24),
    ],
)
def test_arguments_of_the_other_decoder_are_refused(argument, value):
    build('deeplabv3plus', **{argument: value})
    with pytest.raises(ValueError, match=f'{argument} means nothing'):
        build('upernet', **{argument: value})


def test_decoder_arguments_arrive():
    model = build(
        decoder_filters=32,
        decoder_normalization='group',
        decoder_activation='silu',
        head_options=dict(top_down='fused', dropout_ratio=0.3),
    )
    head = model.decode_head
    assert head.channels == 32
    assert head.top_down == 'fused'
    assert head.dropout.p == 0.3
    assert isinstance(head.bottleneck.norm, nn.GroupNorm)
    assert isinstance(head.bottleneck.activate, nn.SiLU)
    with pytest.raises(ValueError, match='decoder_normalization must be'):
        build(decoder_normalization='layer')


def test_list_encoders_selects():
    everything = list_encoders()
    volumes = list_encoders(spatial_dims=3)
    assert len(volumes) == len(everything) > 100
    assert all(3 in entry.spatial_dims for entry in volumes.values())
    resnets = list_encoders(family='resnet')
    assert {e.family for e in resnets.values()} == {'resnet'}
    with pytest.raises(ValueError, match='no encoder family'):
        list_encoders(family='rsnet')
    with pytest.raises(ValueError, match='spatial_dims'):
        list_encoders(spatial_dims=4)


@pytest.mark.parametrize(
    'name',
    [
        *('seresnext50', 'resnet18vd', 'resnet50v2', 'regnety_002'),
        *('xception', 'densenet121', 'efficientnet_v2_b0', 'mobilenetv2_050'),
        *('convnext_v2_atto', 'mit_b0', 'pvt_v2_b0', 'augreg-t', 'dinov2-s'),
    ],
)
def test_encoders_by_name(name):
    size = (70, 84)
    model = build(encoder_name=name, shape=(3, *size), num_classes=5)
    inputs = torch.randn(1, 3, *size)
    with torch.no_grad():
        assert model(inputs).shape == (1, 5, *size)
        maps = model.encoder(inputs)
    levels = model.encoder.pyramid_outputs.values()
    assert [level.shape for level in levels] == [m.shape[1:] for m in maps]
    entry = list_encoders()[name]
    mean = model.data_preprocessor.mean.flatten()
    torch.testing.assert_close(mean, torch.tensor(entry.mean))


@pytest.mark.parametrize('name', ['seresnet18', 'convnext_v2_atto'])
def test_volumes_by_name(name):
    model = build(
        'deeplabv3plus',
        encoder_name=name,
        encoder_depth=4,
        shape=(1, 32, 48, 32),
        num_classes=2,
    )
    # What the decoder does not use is not built.
    assert len(model.encoder.out_channels) == 4
    out = model(torch.randn(1, 1, 32, 48, 32))
    assert out.shape == (1, 2, 32, 48, 32)
    out.sum().backward()
    unused = [n for n, p in model.named_parameters() if p.grad is None]
    assert not unused


def test_default_weights_without_an_address_name_the_page():
    with pytest.raises(ValueError, match='dinov3-vits16-pretrain'):
        build(encoder_name='dinov3-s', encoder_weights='default')
