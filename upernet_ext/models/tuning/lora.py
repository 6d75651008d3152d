"""Low-rank adaptation of a backbone's linear layers, by peft.

Paper: LoRA, https://arxiv.org/abs/2106.09685. The names in state dicts are
peft's: ``qkv.weight`` becomes ``qkv.base_layer.weight``, beside
``qkv.lora_A.default.weight`` and ``qkv.lora_B.default.weight``.
"""

from collections.abc import Iterator, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .freeze import added_names

# Of q, k and v as three layers, in the names of transformers, timm, mmcv and
# their kind. Each triple is asked for by the one name 'qkv'.
_SEPARATE = (
    ('query', 'key', 'value'),
    ('q_proj', 'k_proj', 'v_proj'),
    ('q', 'k', 'v'),
    ('to_q', 'to_k', 'to_v'),
    ('wq', 'wk', 'wv'),
)


def add_lora(
    backbone: nn.Module,
    *,
    targets: Sequence[str] = ('qkv',),
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.05,
) -> list[nn.Module]:
    """Put an adapter beside linear layers, and freeze all the rest.

    Only what no published weights have (``added_keys``) is trained too.

    An adapted layer computes ``W x + b + alpha / rank * B A drop(x)``. ``B``
    starts from 0, so that at first the network is what it was.

    Args:
        backbone: Changed in place.
        targets: Last parts of the names of linear layers, such as ``'qkv'``
            or ``'attn.proj'``. In a network that has q, k and v as three
            layers, ``'qkv'`` means these, under whatever names.
        rank: Rows of ``A``.
        alpha: Numerator of the adapter's scale.
        dropout: Of the adapter's input.

    Returns:
        The modules to keep in evaluation mode: batch norms, whose statistics
        belong to the frozen weights.

    Raises:
        ImportError: peft is not installed.
        ValueError: A target that matches nothing, a backbone that has
            adapters, or numbers out of range.
    """
    if any(adapted_layers(backbone)):
        raise ValueError(
            f'{type(backbone).__name__} has adapters; merge them first'
        )
    if rank < 1 or not 0 <= dropout < 1:
        raise ValueError(
            f'LoRA needs rank >= 1 and 0 <= dropout < 1, got rank={rank} and '
            f'dropout={dropout}'
        )
    names = _matching(backbone, targets)
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(
            "LoRA needs peft: pip install 'upernet_ext[backbones]'"
        ) from error
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=names
    )
    inject_adapter_in_model(config, backbone)
    for name in added_names(backbone):
        backbone.get_parameter(name).requires_grad_(True)
    return [m for m in backbone.modules() if isinstance(m, _BatchNorm)]


def _matching(backbone: nn.Module, targets: Sequence[str]) -> list[str]:
    """Name the linear layers that are meant."""
    if isinstance(targets, str):
        raise ValueError(
            f'targets must be a list of names, got {targets!r}; write '
            f'[{targets!r}]'
        )
    linear = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear)
    ]

    def ends_with(target: str) -> list[str]:
        return [n for n in linear if n == target or n.endswith(f'.{target}')]

    found = {}
    for target in targets:
        names = ends_with(target)
        if not names and target == 'qkv':
            triples = ([ends_with(n) for n in names] for names in _SEPARATE)
            names = next(
                (q + k + v for q, k, v in triples if q and k and v), []
            )
        if not names:
            known = sorted({name.rpartition('.')[2] for name in linear})
            raise ValueError(
                f'LoRA target {target!r} matches no linear layer of '
                f'{type(backbone).__name__}; their names end with {known}'
            )
        found.update(dict.fromkeys(names))
    if not found:
        raise ValueError("LoRA needs targets, such as ['qkv']")
    return list(found)


def adapted_layers(
    module: nn.Module,
) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Yield each adapted layer, with its parent and its name in it."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if hasattr(child, 'lora_A'):
                yield parent, name, child


def enable_lora(module: nn.Module) -> None:
    """Let the adapters take part again, and train them."""
    for _, _, layer in _adapted(module):
        layer.enable_adapters(True)


def disable_lora(module: nn.Module) -> None:
    """Compute with the frozen weights alone; the adapters are kept.

    They are not trained meanwhile.
    """
    for _, _, layer in _adapted(module):
        layer.enable_adapters(False)


def merge_lora(module: nn.Module) -> None:
    """Add each adapter to its layer's weight, and take it away.

    Names and structure are then those of the network without adapters. Its
    weights stay frozen.
    """
    for parent, name, layer in _adapted(module):
        layer.merge(safe_merge=True)
        setattr(parent, name, layer.get_base_layer())
    for part in module.modules():
        vars(part).pop('peft_config', None)


def reset_lora(module: nn.Module) -> None:
    """Let the adapters start again, from ``B = 0``.

    An initialisation of all linear layers would move the network away from
    its published weights.
    """
    for _, _, layer in adapted_layers(module):
        for adapter in layer.lora_A:
            layer.reset_lora_parameters(adapter, True)


def _adapted(
    module: nn.Module,
) -> list[tuple[nn.Module, str, nn.Module]]:
    layers = list(adapted_layers(module))
    if not layers:
        raise ValueError(
            f'{type(module).__name__} has no adapters; build it with '
            "tuning=dict(type='lora')"
        )
    return layers
