"""UPerNet's head in 3D, on a ResNet-50's pyramid, forward and backward."""

from collections.abc import Callable, Sequence
from types import ModuleType

from torch import Tensor, nn

from upernet_ext.models import UPerHead

from ..compare import gradients
from ..peers import peer
from ..plain import plain_uper_head
from ..row import Call, Case, Goals, Peer, Results, Row

CLASSES = 14
CHANNELS = (256, 512, 1024, 2048)
_GOALS = Goals(time=0.45, memory=0.60)
_PREFIX = 'upernet_decoder_'


def _head(case: Case) -> UPerHead:
    head = UPerHead(
        CHANNELS,
        case['hidden'],
        num_classes=CLASSES,
        spatial_dims=3,
        # Keras's epsilon, so that one head serves both peers.
        norm_cfg=dict(type='BN', eps=1e-3),
        dropout_ratio=0,
        top_down=case['top_down'],
    )
    nn.init.normal_(head.conv_seg.weight, std=0.1)
    return case.place(head).train(case['training'])


def _pyramid(case: Case) -> list[Tensor]:
    sizes = [case['edge'] // 4 // 2**i for i in range(4)]
    return [
        case.normal(case['batch'], c, s, s, s)
        for c, s in zip(CHANNELS, sizes, strict=True)
    ]


def _call(
    case: Case,
    leaves: dict[str, Tensor],
    forward: Callable[[Sequence[Tensor]], Tensor],
) -> Call:
    maps = [x.requires_grad_() for x in _pyramid(case)]
    leaves = leaves | {f'map{i}': x for i, x in enumerate(maps)}
    finest = maps[0].shape[2:]
    weights = case.normal(case['batch'], CLASSES, *finest)

    def call() -> Results:
        logits = forward(maps)
        return dict(
            logits=dict(logits=logits.detach()),
            gradients=gradients(logits, leaves, weights),
        )

    return call


def _ours(case: Case) -> Call:
    head = _head(case)
    return _call(case, dict(head.named_parameters()), head)


def _plain(case: Case) -> Call:
    head = _head(case)
    return _call(
        case,
        dict(head.named_parameters()),
        lambda maps: plain_uper_head(head, maps),
    )


# medicai ------------------------------------------------------------------


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Our names of ConvModules -> medicai's convolution and norm."""
    names = dict(ppm_final_3x3='bottleneck', fpn_fusion_3x3='fpn_bottleneck')
    for i, scale in enumerate((1, 2, 3, 6)):
        names[f'ppm_conv_1x1_s{scale}'] = f'psp_modules.{i}.1'
    for i in range(3):
        names[f'fpn_lateral_1x1_p{i + 1}'] = f'lateral_convs.{i}'
        names[f'fpn_conv_3x3_p{i + 1}'] = f'fpn_convs.{i}'
    found = {}
    for theirs, ours in names.items():
        found[f'{ours}.conv'] = model.get_layer(f'{_PREFIX}{theirs}_conv_3D')
        found[f'{ours}.bn'] = model.get_layer(f'{_PREFIX}{theirs}_norm_3D')
    found['conv_seg'] = model.layers[-2]
    return found


def _parameters(model: nn.Module) -> dict[str, object]:
    """Our names of parameters -> Keras's variables."""
    found = {}
    for name, layer in _layers(model).items():
        kind = ('gamma', 'beta') if name.endswith('.bn') else ('kernel',)
        if name == 'conv_seg':
            kind = ('kernel', 'bias')
        for attribute, ours in zip(kind, ('weight', 'bias'), strict=False):
            found[f'{name}.{ours}'] = getattr(layer, attribute)
    return found


def _to_keras(value: Tensor) -> Tensor:
    """``(out, in, *k)`` -> ``(*k, in, out)``."""
    return value.movedim((1, 0), (-2, -1)) if value.ndim > 1 else value


def _from_keras(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.movedim((-2, -1), (1, 0))
        if value.ndim == 5 and not name.startswith('map')
        else value
        for name, value in values.items()
    }


def _decoder(keras: ModuleType, case: Case) -> tuple[nn.Module, nn.Module]:
    """Build medicai's UPerNet over a pyramid that is its input."""
    models = peer('medicai.models')
    edge = case['edge']
    image = keras.Input((edge, edge, edge, 1))
    pyramid = {
        f'P{i + 1}': keras.layers.Conv3D(c, 1, strides=4 * 2**i)(image)
        for i, c in enumerate(CHANNELS)
    }
    encoder = keras.Model(image, list(pyramid.values()))
    encoder.pyramid_outputs = pyramid
    whole = models.UPerNet(
        encoder=encoder,
        num_classes=CLASSES,
        decoder_filters=case['hidden'],
        head_upsample=1,
    )
    # The last layer is the activation, in float32 whatever comes.
    logits = whole.layers[-2].output
    return whole, keras.Model(list(pyramid.values()), logits)


def _medicai(case: Case) -> Call:
    keras = peer('keras')
    ours = dict(_head(case).named_parameters())
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(str(case.dtype).removeprefix('torch.'))
    # Keras takes the GPU by itself where there is one.
    whole, decoder = _decoder(keras, case)
    keras.config.set_dtype_policy(before)
    variables = _parameters(whole)
    for name, variable in variables.items():
        variable.assign(_to_keras(ours[name].detach()))
    leaves = {name: v.value for name, v in variables.items()}

    def forward(maps: Sequence[Tensor]) -> Tensor:
        last = [x.movedim(1, -1) for x in maps]
        return decoder(last, training=case['training']).movedim(-1, 1)

    return _call(case, leaves, forward)


def _row(hidden: int) -> Row:
    # Smaller volumes have the gradients of the deepest level's kernel as
    # their peak memory, which both sides return.
    sizes = dict(
        hidden=hidden,
        batch=1,
        top_down='lateral',
        training=True,
        edge=96,
    )
    return Row(
        f'head-3d-{hidden}',
        f'3D head, ResNet-50 pyramid, hidden {hidden}, forward + backward',
        _ours,
        (Peer('plain', _plain, _GOALS),),
        reduced=sizes,
        full=sizes,
        smooth=False,
    )


# At batch 1 its norms of a single value are 0, ours are not, so norms use
# their running statistics. Its pooling is ours where the deepest map has 3
# voxels an axis.
_FUSED = dict(batch=1, top_down='fused', edge=96, training=False)
_MEDICAI = Peer(
    'medicai',
    _medicai,
    _GOALS,
    rename=_from_keras,
    note='its norms and resizes work in float32',
    largest_error=1e-6,
)

ROWS = (
    _row(128),
    _row(256),
    Row(
        'head-3d-medicai',
        "3D head with medicai's top-down path, forward + backward",
        _ours,
        (_MEDICAI,),
        reduced=dict(_FUSED, hidden=64),
        full=dict(_FUSED, hidden=128),
        smooth=False,
    ),
)
