"""Backbones of the transformers library (Swin, ConvNeXt, Dinov2, ...).

Library: https://github.com/huggingface/transformers, Apache-2.0; weights
have licences of their own.
"""

import re
from collections.abc import Mapping, Sequence
from types import ModuleType

from torch import Tensor, nn

from ...interop.rename import Rule, substitute
from ...registry import MODELS

_CONVNEXT_STAGE = re.compile(r'model\.encoder\.stages\.(\d+)\.')
_SWIN_BLOCK = re.compile(
    r'\.encoder\.layers\.(\d+)\.(?:blocks\.(\d+)|downsample)'
)
_VIT_LAYER = re.compile(r'\.layers?\.(\d+)\.')
# Names that transformers 4 wrote, and its version 5 gave up for some types.
# Source: transformers/conversion_mapping.py, version 5.23.
_VERSION_4: tuple[Rule, ...] = (
    (
        r'attention\.(?:self|attention)\.([qkv])(?:uery|ey|alue)\.',
        r'attention.\1_proj.',
    ),
    (
        r'attention\.self\.(relative_position_)',
        r'attention.relative_position_bias.\1',
    ),
    (r'attention\.output\.dense', 'attention.o_proj'),
    (r'attention\.self\.sr', 'attention.self.sequence_reduction'),
    (r'attention\.self\.', 'attention.sequence_reduction.'),
    (r'intermediate\.dense|mlp\.dense1', 'mlp.fc1'),
    (r'output\.dense|mlp\.dense2', 'mlp.fc2'),
    (r'layer_norm_1', 'layernorm_before'),
    (r'layer_norm_2', 'layernorm_after'),
    (r'encoder\.(patch_embeddings|layer_norm)\.(\d+)', r'stages.\2.\1'),
    (r'encoder\.block\.(\d+)', r'stages.\1.blocks'),
)


@MODELS.register_module()
class TransformersBackbone(nn.Module):
    """A network of transformers that gives feature maps; images only.

    Any ``AutoBackbone`` (``convnext``, ``convnextv2``, ``swin``, ``swinv2``,
    ``resnet``, ``pvt_v2``, ``dinov2``, ``beit``, ...), and any ``AutoModel``
    whose hidden states are maps (``segformer``, ``regnet``).

    Args:
        model_type: transformers' name: ``'convnext'``, ``'swin'``, ...
        config: Arguments of the type's configuration class.
        out_indices: Stages that give a map, counted as transformers does (0
            is the stem, where the type names one); by default the four of a
            hierarchical network, the last of each quarter of a plain ViT's
            layers.
        in_channels: Channels of the image.
        gradient_checkpointing: Recompute each layer in backward.

    Raises:
        ImportError: transformers is not installed.
        ValueError: transformers has no such type.
    """

    key_map = 'transformers'
    optional_pretrained_keys = ('model.hidden_states_norms.',)

    def __init__(
        self,
        model_type: str,
        config: Mapping | None = None,
        *,
        out_indices: Sequence[int] | None = None,
        in_channels: int = 3,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        transformers = _transformers()
        if model_type not in transformers.CONFIG_MAPPING:
            raise ValueError(f'transformers has no model type {model_type!r}')
        config_class = transformers.CONFIG_MAPPING[model_type]
        arguments = dict(_lists(config or {}), num_channels=in_channels)
        plain_config = config_class(**arguments)
        self.num_layers = self._plain_vit_layers(plain_config)
        self.out_indices = tuple(
            self._default_levels(plain_config)
            if out_indices is None
            else out_indices
        )
        self.as_backbone = config_class in (
            transformers.MODEL_FOR_BACKBONE_MAPPING
        )
        self.model_config, build = plain_config, transformers.AutoModel
        if self.as_backbone:
            self.model_config = config_class(
                **arguments, out_indices=list(self.out_indices)
            )
            build = transformers.AutoBackbone
        self.model = build.from_config(self.model_config)
        if self.num_layers is not None and isinstance(
            self.model_config.patch_size, int
        ):
            self.patch_size = (self.model_config.patch_size,) * 2
        if gradient_checkpointing:
            # Older versions of transformers know the second name only.
            enable = getattr(
                self.model, 'activation_checkpointing_enable', None
            )
            (enable or self.model.gradient_checkpointing_enable)()

    @staticmethod
    def _plain_vit_layers(config: object) -> int | None:
        """Tell the layers of a plain ViT, where every layer is a stage."""
        layers = getattr(config, 'num_hidden_layers', None)
        stages = getattr(config, 'stage_names', None) or ()
        if layers is None or getattr(config, 'depths', None):
            return None
        return layers if len(stages) == layers + 1 else None

    def _default_levels(self, config: object) -> tuple[int, ...]:
        if self.num_layers is not None:
            return tuple(self.num_layers * i // 4 for i in (1, 2, 3, 4))
        stages = getattr(config, 'stage_names', None)
        if stages is None:
            # Hidden states: one a stage, after the stem's where there is one.
            return tuple(range(-len(config.depths), 0))
        return tuple(range(len(stages)))[-4:]

    def init_weights(self) -> None:
        """Initialise as transformers does."""
        self.model.init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return a map ``(N, C_i, *S_i)`` a level for ``x`` (N, C, H, W)."""
        if self.as_backbone:
            return tuple(self.model(x).feature_maps)
        states = self.model(x, output_hidden_states=True).hidden_states
        return tuple(states[i] for i in self.out_indices)

    @property
    def unused_pretrained_keys(self) -> tuple[str, ...]:
        """Prefixes in published files that this module has no use for.

        A classifier's one final norm, heads, and tables that are computed.
        """
        own = self.state_dict()
        computed = [n for n, _ in self.named_buffers() if n not in own]
        heads = ('layernorm', 'pooler', 'classifier', 'decode_head')
        return (
            *(f'model.{head}.' for head in heads),
            'decode_head.',
            *computed,
        )

    def adapt_state_dict(
        self, state_dict: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list]:
        """Put the names of any head's file where this module has them.

        A file's names start with the base model's (``swin.``) where it has a
        head; a backbone holds the base model under that name, or is it. Files
        of transformers 4 may have older names.
        """
        base = f'{self.model.base_model_prefix}.'
        own = {*self.state_dict(), *(n for n, _ in self.named_buffers())}
        inside = base if hasattr(self.model, base[:-1]) else ''
        adapted = {}
        for name, value in state_dict.items():
            bare = name.removeprefix('model.').removeprefix(base)
            new = f'model.{inside}{bare}'
            (newer,) = substitute({new: value}, _VERSION_4)
            found = [n for n in (name, new, newer) if n in own]
            adapted[found[0] if found else name] = value
        return adapted, []

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Tell the depth of a parameter of a ConvNeXt, Swin or plain ViT.

        ConvNeXt, stage by stage: 0 for the stem and the downsampling layers,
        ``i + 1`` for stage ``i``, the last for the norms; of 8 layers up to
        nine blocks in the third stage, of 14 for the deeper ones. Source: the
        ConvNeXt recipes of mmsegmentation (``get_stage_id_for_convnext``,
        ``num_layers`` 6 or 12). Swin and ViTs: 0 for the embeddings, then one
        layer a block, the last for the norms.

        Raises:
            ValueError: Another model type.
        """
        kind = self.model_config.model_type
        if kind in ('convnext', 'convnextv2'):
            return self._convnext_depth(name)
        if kind in ('swin', 'swinv2'):
            return self._swin_depth(name)
        if self.num_layers is None:
            raise ValueError(
                f'the layer depth of transformers {kind} is not known; leave '
                'layer_decay_rate out'
            )
        layer = _VIT_LAYER.search(name)
        if layer:
            return int(layer[1]) + 1, self.num_layers + 2
        last = 0 if 'embeddings' in name else self.num_layers + 1
        return last, self.num_layers + 2

    def _convnext_depth(self, name: str) -> tuple[int, int]:
        num_layers = 8 if self.model_config.depths[2] <= 9 else 14
        if name.startswith('model.embeddings.') or 'downsampling' in name:
            return 0, num_layers
        stage = _CONVNEXT_STAGE.match(name)
        return int(stage[1]) + 1 if stage else num_layers - 1, num_layers

    def _swin_depth(self, name: str) -> tuple[int, int]:
        depths = self.model_config.depths
        last = sum(depths) + 1
        if '.embeddings.' in name:
            return 0, last + 1
        found = _SWIN_BLOCK.search(name)
        if not found:
            return last, last + 1
        stage = int(found[1])
        if found[2] is None:  # merges the patches behind the stage
            return sum(depths[: stage + 1]), last + 1
        return sum(depths[:stage]) + int(found[2]) + 1, last + 1


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            'TransformersBackbone needs transformers: '
            "pip install 'upernet_ext[backbones]'"
        ) from error
    return transformers


def _lists(config: Mapping) -> dict:
    """Write sequences as plain lists: configuration classes compare types."""
    return {
        k: list(v) if isinstance(v, Sequence) and not isinstance(v, str) else v
        for k, v in config.items()
    }
