"""A convolution of an upsampled map, forward and backward, in 2D and 3D."""

import importlib.util

from torch import Tensor, nn

from upernet_ext.layers.rank import conv_cfg, conv_module, resize

from ..compare import gradients
from ..row import Call, Case, Goals, Peer, Results, Row

_LEVER = 'upernet_ext.layers.upsampled_conv'


def _plain(case: Case) -> nn.Module:
    module = conv_module(
        case['channels'],
        case['channels'],
        3,
        spatial_dims=case['spatial_dims'],
    )
    return case.place(module)


def _call(case: Case, module: nn.Module, forward) -> Call:
    rank = case['spatial_dims']
    shape = case['batch'], case['channels']
    x = case.normal(*shape, *[case['low']] * rank).requires_grad_()
    size = [case['low'] * case['factor']] * rank
    weights = case.normal(*shape, *size)
    leaves = dict(module.named_parameters()) | dict(map=x)

    def call() -> Results:
        result = forward(x, size)
        return dict(
            map=dict(map=result.detach()),
            gradients=gradients(result, leaves, weights),
        )

    return call


def _ours(case: Case) -> Call:
    plain = _plain(case)
    if importlib.util.find_spec(_LEVER) is None:
        return _interpolated(case, plain)
    lever = importlib.import_module(_LEVER)
    module = lever.UpsampledConvModule(
        case['channels'],
        case['channels'],
        3,
        padding=1,
        conv_cfg=conv_cfg(case['spatial_dims']),
        act_cfg=None,
    )
    module.load_state_dict(plain.state_dict())
    case.place(module)
    return _call(case, module, lambda x, size: module([x], size))


def _interpolated(case: Case, module: nn.Module) -> Call:
    def forward(x: Tensor, size: list[int]) -> Tensor:
        return module(resize(x, size))

    return _call(case, module, forward)


def _theirs(case: Case) -> Call:
    return _interpolated(case, _plain(case))


def _row(
    spatial_dims: int, factor: int, channels: int, low: int, time: float
) -> Row:
    sizes = dict(
        spatial_dims=spatial_dims,
        factor=factor,
        channels=channels,
        batch=1,
        low=low,
    )
    rank = '' if spatial_dims == 2 else '-3d'
    return Row(
        f'conv{rank}-{factor}x',
        f'conv of a {factor}x upsampled {"map" if rank == "" else "volume"}, '
        f'{channels} channels, forward + backward',
        _ours,
        (
            Peer(
                f'interpolate + conv{spatial_dims}d',
                _theirs,
                Goals(time=time),
            ),
        ),
        reduced=sizes,
        full=sizes,
    )


ROWS = (
    _row(2, 4, 512, 32, 0.14),
    _row(2, 2, 512, 64, 0.42),
    _row(3, 4, 128, 6, 0.08),
    _row(3, 2, 128, 12, 0.32),
)
