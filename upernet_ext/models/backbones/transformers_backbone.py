"""Backbones of the transformers library (Swin, ConvNeXt, Dinov2, ...).

Library: https://github.com/huggingface/transformers, Apache-2.0; weights
have licences of their own.
"""

import re
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ...registry import MODELS

_CONVNEXT_STAGE = re.compile(r'model\.encoder\.stages\.(\d+)\.')


@MODELS.register_module()
class TransformersBackbone(nn.Module):
    """Any ``AutoBackbone`` of transformers, built from its configuration.

    Args:
        model_type: transformers' name: ``'convnext'``, ``'swin'``, ...
        config: Arguments of the type's configuration class.
        out_indices: Stages that give a map, counted as transformers does
            (0 is the stem); by default the four of a hierarchical network.
        in_channels: Channels of the image.
        gradient_checkpointing: Recompute each layer in backward.

    Raises:
        ImportError: transformers is not installed.
    """

    key_map = 'transformers'
    # Published classifiers have one final norm; a backbone has one a level.
    unused_pretrained_keys = ('model.layernorm.', 'model.pooler.')
    optional_pretrained_keys = ('model.hidden_states_norms.',)

    def __init__(
        self,
        model_type: str,
        config: Mapping | None = None,
        *,
        out_indices: Sequence[int] = (1, 2, 3, 4),
        in_channels: int = 3,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        try:
            from transformers import CONFIG_MAPPING, AutoBackbone
        except ImportError as error:
            raise ImportError(
                'TransformersBackbone needs transformers: '
                "pip install 'upernet_ext[backbones]'"
            ) from error
        if model_type not in CONFIG_MAPPING:
            raise ValueError(f'transformers has no model type {model_type!r}')
        # Configuration classes compare types: a mmengine ConfigDict of
        # tuples must become plain lists.
        arguments = {
            k: list(v)
            if isinstance(v, Sequence) and not isinstance(v, str)
            else v
            for k, v in (config or {}).items()
        }
        self.model_config = CONFIG_MAPPING[model_type](
            **arguments,
            num_channels=in_channels,
            out_indices=list(out_indices),
        )
        self.model = AutoBackbone.from_config(self.model_config)
        if gradient_checkpointing:
            self.model.gradient_checkpointing_enable()

    def init_weights(self) -> None:
        """Initialise as transformers does."""
        self.model.init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return a map ``(N, C_i, *S_i)`` a level for ``x`` (N, C, H, W)."""
        return tuple(self.model(x).feature_maps)

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Tell the depth of a parameter of a ConvNeXt, stage by stage.

        0 for the stem and the downsampling layers, ``i + 1`` for stage ``i``,
        the last for the norms; of 8 layers up to nine blocks in the third
        stage, of 14 for the deeper ones. Source: the ConvNeXt recipes of
        mmsegmentation (``get_stage_id_for_convnext``, ``num_layers`` 6 or 12).

        Raises:
            ValueError: Another model type.
        """
        if not self.model_config.model_type.startswith('convnext'):
            raise ValueError(
                f'the layer depth of transformers '
                f'{self.model_config.model_type} is not known; leave '
                'layer_decay_rate out'
            )
        num_layers = 8 if self.model_config.depths[2] <= 9 else 14
        if name.startswith('model.embeddings.') or 'downsampling' in name:
            return 0, num_layers
        stage = _CONVNEXT_STAGE.match(name)
        return int(stage[1]) + 1 if stage else num_layers - 1, num_layers
