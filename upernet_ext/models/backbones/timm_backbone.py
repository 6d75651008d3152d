"""Backbones of timm.

Library: https://github.com/huggingface/pytorch-image-models, Apache-2.0;
weights have licences of their own.
"""

import difflib
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from ...registry import MODELS
from .encoder import PyramidEncoder, select_levels


def _create(model_name: str, **kwargs) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise ImportError(
            'TimmBackbone needs timm, and the torchvision that fits your '
            f'torch: install both ({error})'
        ) from error
    if not timm.is_model(model_name):
        close = difflib.get_close_matches(model_name, timm.list_models(), n=3)
        raise ValueError(
            f'timm has no model {model_name!r}; close ones are {close}, '
            'timm.list_models() names all'
        )
    return timm.create_model(model_name, pretrained=False, **kwargs)


def _quarters(num_blocks: int) -> tuple[int, ...]:
    """Last block of each quarter of a plain ViT: 2, 5, 8, 11 of 12."""
    return tuple(num_blocks * i // 4 - 1 for i in (1, 2, 3, 4))


@MODELS.register_module()
class TimmBackbone(PyramidEncoder, nn.Module):
    """Any network of timm that gives feature maps; images only.

    Always built without weights: ``pretrained`` takes a file or an address
    such as https://huggingface.co/timm/resnet50.a1_in1k/resolve/main/model.safetensors,
    and checks every name in it.

    Args:
        model_name: timm's name: ``'resnest50d'``,
            ``'swin_tiny_patch4_window7_224'``, ...
        out_indices: Levels that give a map, counted as timm's
            ``feature_info``; by default all of them, and of a plain ViT the
            last of each quarter of the blocks. What lies behind the last
            one is dropped.
        in_channels: Channels of the image.
        img_size: In pixels, ``(H, W)``, for networks that take one size only
            (ViT, Swin); by default the published one.
        final_norm: Apply a ViT's final norm to every level.
        drop_path_rate: Stochastic depth, as the network counts it.
        gradient_checkpointing: Recompute blocks in backward.
        model_args: Further arguments of the network in timm, such as
            ``dict(output_stride=8)`` or ``dict(dynamic_img_size=True)``.

    Attributes:
        names: timm's name of each tensor -> the name here.

    Raises:
        ImportError: timm is not installed.
        ValueError: timm has no such network, or no such level; or
            ``final_norm`` of a network that is no plain ViT.
    """

    key_family = 'timm'

    def __init__(
        self,
        model_name: str,
        out_indices: Sequence[int] | None = None,
        *,
        in_channels: int = 3,
        img_size: int | Sequence[int] | None = None,
        final_norm: bool = False,
        drop_path_rate: float = 0.0,
        gradient_checkpointing: bool = False,
        model_args: Mapping | None = None,
    ) -> None:
        super().__init__()
        arguments = dict(model_args or {}, in_chans=in_channels)
        if img_size is not None:
            arguments['img_size'] = (
                img_size if isinstance(img_size, int) else tuple(img_size)
            )
        if drop_path_rate:
            arguments['drop_path_rate'] = drop_path_rate
        whole = _create(model_name, num_classes=0, **arguments)
        published = list(whole.state_dict())
        self._choose_levels(whole.feature_info, out_indices)
        if final_norm and not self.plain:
            raise ValueError(
                f"final_norm is a plain ViT's, but {model_name} is a pyramid; "
                'leave it out'
            )
        self.final_norm = final_norm
        classifier = whole.pretrained_cfg.get('classifier') or ()
        self._classifier = (
            (classifier,) if isinstance(classifier, str) else tuple(classifier)
        )
        self.by_intermediates = hasattr(whole, 'forward_intermediates')
        self.model = self._reduce(whole, model_name, arguments)
        self._match_names(published)
        if gradient_checkpointing:
            self.model.set_grad_checkpointing(True)

    def _reduce(
        self, whole: nn.Module, model_name: str, arguments: Mapping
    ) -> nn.Module:
        """Leave of a classifier what the levels need."""
        if self.by_intermediates:
            whole.prune_intermediate_layers(
                list(self.out_indices), prune_norm=not self.final_norm
            )
            return whole
        return _create(
            model_name,
            features_only=True,
            out_indices=self.out_indices,
            **arguments,
        )

    def _choose_levels(
        self, info: Sequence[Mapping], out_indices: Sequence[int] | None
    ) -> None:
        # In a plain ViT every block is a level at the patch's stride.
        self.plain = (
            len(info) >= 4 and len({i['reduction'] for i in info}) == 1
        )
        if self.plain:
            self.patch_size = (info[0]['reduction'],) * 2
            out_indices = out_indices or _quarters(len(info))
        self.out_indices = select_levels(out_indices, len(info))
        levels = [info[i] for i in self.out_indices]
        self.out_channels = tuple(level['num_chs'] for level in levels)
        self.out_strides = tuple((level['reduction'],) * 2 for level in levels)

    def _match_names(self, published: Sequence[str]) -> None:
        """Find each of timm's names here, and what was dropped."""
        own = set(self.model.state_dict())
        # timm's extractors write the first dot of ``stages.0`` as ``_``.
        self.names = {
            name: f'model.{inside}'
            for name in published
            for inside in (name, name.replace('.', '_', 1))
            if inside in own
        }
        self._behind = tuple(n for n in published if n not in self.names)

    def init_weights(self) -> None:
        """Keep what timm initialised when it built the network."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return a map ``(N, C_i, *S_i)`` a level for ``x`` (N, C, H, W)."""
        if not self.by_intermediates:
            return tuple(self.model(x))
        return tuple(
            self.model.forward_intermediates(
                x,
                indices=list(self.out_indices),
                norm=self.final_norm,
                output_fmt='NCHW',
                intermediates_only=True,
            )
        )

    @property
    def unused_pretrained_keys(self) -> tuple[str, ...]:
        """Names in timm's file that lie behind the last level."""
        return (*(f'{name}.' for name in self._classifier), *self._behind)

    def adapt_state_dict(
        self, state_dict: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], list]:
        """Put timm's names where this module has the tensors."""
        names = self.names
        return {names.get(k, k): v for k, v in state_dict.items()}, []

    def get_layer_depth(self, name: str) -> tuple[int, int]:
        """Tell the depth of a parameter, as timm groups them.

        Raises:
            ValueError: timm does not group the parameters of this network.
        """
        from timm.models import group_parameters

        if not hasattr(self.model, 'group_matcher'):
            raise ValueError(
                f'timm does not tell the layers of {type(self.model).__name__}'
                '; leave layer_decay_rate out'
            )
        layers = group_parameters(
            self.model, self.model.group_matcher(), reverse=True
        )
        depth = layers[name.removeprefix('model.')]
        return depth, max(layers.values()) + 2
