"""The ViT alone, forward, and forward and backward."""

from collections.abc import Callable, Sequence

import torch
from mmseg.models import VisionTransformer as MMSegVisionTransformer
from torch import Tensor, nn

from upernet_ext.interop.vit_openmmlab import from_openmmlab, to_mmseg_vit
from upernet_ext.interop.vit_transformers import from_vit, to_dinov2
from upernet_ext.models import VisionTransformer

from ..compare import gradients
from ..peers import peer
from ..row import Call, Case, Goals, Peer, Results, Row

_WIDTH, _HEADS = 768, 12
Forward = Callable[[Tensor], Sequence[Tensor]]


def _indices(case: Case) -> tuple[int, ...]:
    """Four blocks at equal distance, the last one last; or all of fewer."""
    layers = case['layers']
    if layers < 4:
        return tuple(range(layers))
    return tuple(layers * (i + 1) // 4 - 1 for i in range(4))


def draw_positions(vit: VisionTransformer) -> None:
    """Give every token its place; they start at zero."""
    for parameter in (vit.cls_token, vit.pos_embed):
        nn.init.normal_(parameter, std=0.5)


def _our_vit(case: Case) -> VisionTransformer:
    vit = VisionTransformer(
        dict(
            embed_dims=_WIDTH,
            num_layers=case['layers'],
            num_heads=_HEADS,
            **case['options'],
        ),
        img_size=case['image'],
        out_indices=_indices(case),
    )
    draw_positions(vit)
    return case.place(vit).train()


def _call(case: Case, module: nn.Module, forward: Forward) -> Call:
    image = case.normal(case['batch'], 3, case['image'], case['image'])
    if not case['train']:

        @torch.no_grad()
        def call() -> Results:
            return dict(maps=_named(forward(image)))

        return call
    leaves = dict(module.named_parameters())

    def call() -> Results:
        maps = forward(image)
        values = gradients(_scalar(maps), leaves)
        return dict(
            maps={k: v.detach() for k, v in _named(maps).items()},
            gradients=values,
        )

    return call


def _named(maps: Sequence[Tensor]) -> dict[str, Tensor]:
    return {str(i): x for i, x in enumerate(maps)}


def _scalar(maps: Sequence[Tensor]) -> Tensor:
    """Weigh the maps by a wave, so that no gradient cancels."""
    wave = torch.linspace(0, 100, maps[0].numel()).sin()
    wave = wave.to(maps[0]).view(maps[0].shape)
    return sum((x * wave).mean() for x in maps)


def _ours(case: Case) -> Call:
    vit = _our_vit(case)
    return _call(case, vit, vit)


def _mmseg(case: Case) -> Call:
    state = to_mmseg_vit(_our_vit(case).state_dict())
    vit = MMSegVisionTransformer(
        img_size=case['image'],
        patch_size=16,
        patch_bias=True,
        embed_dims=_WIDTH,
        num_layers=case['layers'],
        num_heads=_HEADS,
        out_indices=_indices(case),
        norm_cfg=dict(type='LN', eps=1e-6),
    )
    vit.load_state_dict(state)
    vit = case.place(vit)
    vit.train()
    return _call(case, vit, vit)


def _dinov2(case: Case) -> Call:
    transformers = peer('transformers')
    ours = _our_vit(case)
    config = transformers.Dinov2Config(
        hidden_size=_WIDTH,
        num_hidden_layers=case['layers'],
        num_attention_heads=_HEADS,
        image_size=case['image'],
        patch_size=16,
        out_indices=[i + 1 for i in _indices(case)],
        apply_layernorm=True,
        reshape_hidden_states=True,
    )
    vit = transformers.Dinov2Backbone(config)
    vit.load_state_dict(to_dinov2(ours.state_dict()))
    case.place(vit).train()
    return _call(case, vit, lambda x: vit(x).feature_maps)


def _from_dinov2(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return from_vit(values)


_PLAIN: dict = dict(options={})
_DINOV2: dict = dict(options=dict(init_values=1.0, final_norm=True))
# As many tokens as matter to the attention, in few blocks.
_REDUCED = dict(layers=2, image=448, batch=1)
_FULL = dict(layers=12, image=512, batch=1)


def _row(name: str, title: str, peers: tuple, **sizes) -> Row:
    return Row(
        name,
        title,
        _ours,
        peers,
        reduced=dict(_REDUCED, **sizes),
        full=dict(_FULL, **sizes),
        gpu=dict(_FULL, **{**sizes, 'batch': 16}),
    )


_FORWARD = Goals(time=0.75)
_TRAINING = Goals(time=0.87, saved=0.52)
_EQUAL = Goals(time=1.0)

ROWS = (
    _row(
        'vit-forward',
        'ViT-B forward',
        (Peer('mmseg', _mmseg, _FORWARD),),
        train=False,
        **_PLAIN,
    ),
    _row(
        'vit-training',
        'ViT-B forward + backward',
        (Peer('mmseg', _mmseg, _TRAINING, rename=from_openmmlab),),
        train=True,
        **_PLAIN,
    ),
    _row(
        'dinov2-forward',
        'DINOv2-B forward',
        (Peer('transformers', _dinov2, _EQUAL),),
        train=False,
        **_DINOV2,
    ),
    _row(
        'dinov2-training',
        'DINOv2-B forward + backward',
        (Peer('transformers', _dinov2, _EQUAL, rename=_from_dinov2),),
        train=True,
        **_DINOV2,
    ),
)
