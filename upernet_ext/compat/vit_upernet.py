"""UPerNet on a foundation ViT, for trainers that call one function.

A trainer imports this module by its name (``model_path:
"upernet_ext.compat.vit_upernet"``) and calls ``create_segmentation_model``.

The network: the maps of four blocks, all at the patch stride, each after the
ViT's final norm; ``UPerHead`` on them without a neck; ``ProgressiveUpsampler``
before the classifier; logits at the size of the image.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.registry import DefaultScope
from torch import nn

from ..models import EncoderDecoder
from ..models.backbones.vit_presets import ARCHITECTURES
from ..models.tuning import adapted_layers, count_parameters, parameter_table
from ..registry import MODELS

# Backbone -> size -> preset. RETFound is published as a large and VisionFM as
# a base ViT only; the other size is the same network without weights.
BACKBONES: Mapping[str, Mapping[str, str]] = dict(
    dinov3=dict(base='dinov3-b', large='dinov3-l'),
    dinov2=dict(base='dinov2-b', large='dinov2-l'),
    retfound=dict(base='b', large='retfound-mae-l'),
    visionfm=dict(base='visionfm-b', large='l'),
)
_DEPTHS = dict(base=12, large=24)
# Size in words -> in the presets' names, to tell the depth of one refused.
_OTHER_SIZES = dict(
    tiny='t', small='s', huge='h', huge_plus='h+', giant='g', seven_b='7b'
)


@MODELS.register_module()
class ViTUPerNet(EncoderDecoder):
    """An ``EncoderDecoder`` with the methods that such trainers call.

    Attributes:
        backbone: The ViT.
        decode_head: The UPerNet head, with the upsampler inside.
        upsampler: The same upsampler.
    """

    @property
    def upsampler(self) -> nn.Module:
        """What enlarges the fused features before the classifier."""
        return self.decode_head.upsampler

    def print_trainable_parameters(self, detailed: bool = False) -> None:
        """Log how many parameters are trained.

        Args:
            detailed: As a table over backbone, decode_head (without the
                upsampler) and upsampler.
        """
        parts = dict(
            backbone=[self.backbone],
            decode_head=[
                child
                for child in self.decode_head.children()
                if child is not self.upsampler
            ],
            upsampler=[self.upsampler],
        )
        counts = {name: count_parameters(m) for name, m in parts.items()}
        if detailed:
            print_log(parameter_table(counts), logger='current')
            return
        trained, total = map(sum, zip(*counts.values(), strict=True))
        print_log(
            f'trainable parameters: {trained:,} of {total:,} '
            f'({trained / total:.2%})',
            logger='current',
        )

    def enable_lora(
        self,
        rank: int = 8,
        lora_alpha: float = 16.0,
        lora_dropout: float = 0.05,
        target_modules: Sequence[str] | None = None,
    ) -> None:
        """Add adapters to the backbone, and freeze the rest of it.

        Args:
            rank: Of the adapters.
            lora_alpha: Numerator of their scale.
            lora_dropout: Of their input.
            target_modules: Names of linear layers; ``['qkv']``.

        Raises:
            ValueError: There are adapters; ``disable_lora`` merges them.
        """
        self.tune(
            _lora(rank, lora_alpha, lora_dropout, target_modules or ['qkv'])
        )

    def disable_lora(self) -> None:
        """Merge the adapters into the weights, which stay frozen."""
        self.merge_lora()

    @property
    def has_lora(self) -> bool:
        """Whether there are adapters."""
        return any(adapted_layers(self.backbone))


def create_segmentation_model(
    backbone_name: str = 'dinov3',
    backbone_size: str = 'large',
    num_classes: int = 1,
    checkpoint_path: str | None = None,
    freeze_backbone: bool = False,
    use_lora: bool = True,
    lora_rank: int = 8,
    lora_alpha: float = 16.0,
    lora_dropout: float = 0.05,
    lora_target_modules: Sequence[str] | None = None,
    hidden_size: int = 512,
    pool_scales: Sequence[int] = (1, 2, 3, 6),
    **kwargs: Any,
) -> ViTUPerNet:
    """Build UPerNet on a foundation ViT.

    The parameters' names and order are fixed by the trainers that call it.

    Args:
        backbone_name: ``'dinov3'``, ``'dinov2'``, ``'retfound'`` (the MAE
            release) or ``'visionfm'``.
        backbone_size: ``'base'`` or ``'large'``. RETFound has no published
            base and VisionFM no published large weights: there the same
            network is built, for a checkpoint of your own.
        num_classes: Channels of the logits; 1 for one foreground class.
        checkpoint_path: Weights of the backbone: a file, a folder of
            transformers or an https URL, in any known names; all must match.
            ``None``: random, which is said loudly.
        freeze_backbone: Train the head alone. Gives way to ``use_lora``.
        use_lora: Train adapters beside the frozen backbone, and the head.
        lora_rank: Of the adapters.
        lora_alpha: Numerator of their scale.
        lora_dropout: Of their input.
        lora_target_modules: Names of linear layers; ``['qkv']``.
        hidden_size: Channels of head and upsampler.
        pool_scales: Cells an axis of the pyramid pooling.
        **kwargs: Of other models of the same trainer; not used, with a
            warning.

    Returns:
        The model: ``(N, 3, H, W)``, normalised by the caller, to logits
        ``(N, num_classes, H, W)``.

    Raises:
        ValueError: There is no such backbone or size.
        WeightsError: The checkpoint does not fit.
    """
    arch = preset(backbone_name, backbone_size)
    if kwargs:
        warnings.warn(
            f'create_segmentation_model does not use {sorted(kwargs)}',
            stacklevel=2,
        )
    lora = None
    if use_lora:
        targets = lora_target_modules or ['qkv']
        lora = _lora(lora_rank, lora_alpha, lora_dropout, targets)
    if checkpoint_path is None and arch in ARCHITECTURES:
        print_log(
            f'{backbone_name} has no published weights in size '
            f'{backbone_size!r}; the same network is built',
            logger='current',
            level=logging.WARNING,
        )
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = ViTUPerNet(
            backbone=dict(
                type='upernet_ext.VisionTransformer',
                arch=arch,
                final_norm=True,
                pretrained=checkpoint_path,
            ),
            decode_head=dict(
                type='upernet_ext.UPerHead',
                channels=hidden_size,
                pool_scales=tuple(pool_scales),
                # The upsampler has its own.
                dropout_ratio=0.0,
                norm_cfg=dict(type='BN'),
                upsampler=dict(),
            ),
            num_classes=num_classes,
            tuning=_tuning(lora, freeze_backbone),
        )
        model.init_weights()
    return model


def _tuning(lora: dict | None, freeze_backbone: bool) -> dict | None:
    if lora is None:
        return dict(type='freeze', what='all') if freeze_backbone else None
    if freeze_backbone:
        print_log(
            'freeze_backbone=True gives way to use_lora=True: the '
            "backbone's weights are frozen, its adapters are trained",
            logger='current',
        )
    return lora


def _lora(
    rank: int, alpha: float, dropout: float, targets: Sequence[str]
) -> dict[str, Any]:
    return dict(
        type='lora',
        targets=list(targets),
        rank=rank,
        alpha=alpha,
        dropout=dropout,
    )


def preset(name: str, size: str) -> str:
    """Find the preset of a backbone and a size."""
    if name not in BACKBONES:
        raise ValueError(
            f'backbone_name must be one of {sorted(BACKBONES)}, got {name!r}'
        )
    if size not in BACKBONES[name]:
        key = _OTHER_SIZES.get(size, size)
        depth = ARCHITECTURES.get(key, (None, None))[1]
        blocks = f' ({depth} blocks)' if depth else ''
        raise ValueError(
            f'{name} of backbone_size={size!r}{blocks} is not supported; '
            'choose '
            + ' or '.join(f'{s!r} ({d} blocks)' for s, d in _DEPTHS.items())
        )
    return BACKBONES[name][size]
