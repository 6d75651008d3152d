"""Learning rates that fall with depth, and no weight decay where it harms.

Papers: ELECTRA, https://arxiv.org/abs/2003.10555, and BEiT,
https://arxiv.org/abs/2106.08254.
"""

import json
import logging
import re

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ...models.backbones.layer_depth import layer_depth
from ...registry import OPTIM_WRAPPER_CONSTRUCTORS

# Learned tables that are no weights: decay would pull them to zero.
_NO_DECAY = re.compile(
    r'(^|\.)(\w*pos_embed|position_embeddings?|cls_token|dist_token'
    r'|mask_token|reg_token|register_tokens?|relative_position_bias_table'
    r'|rel_pos_bias_table)(\.|$)'
)
_OPTIONS = {'layer_decay_rate', 'num_layers', 'custom_keys'}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayConstructor(DefaultOptimWrapperConstructor):
    """Build the optimiser with layer-wise learning rates.

    The learning rate of a parameter of ``model.backbone`` is multiplied by
    ``layer_decay_rate`` for each layer between it and the heads. Norms,
    biases, layer scales (all that has one axis), position embeddings and
    bias tables, and tokens have no weight decay. Frozen parameters are left
    out.

    Args:
        optim_wrapper_cfg: With ``optimizer``.
        paramwise_cfg: ``layer_decay_rate`` (1.0, the default: the rules for
            weight decay only), ``custom_keys`` (``{part of a name:
            dict(lr_mult=..., decay_mult=...)}``; the longest part that fits
            a name multiplies both numbers of the rules above), and
            ``num_layers`` of mmseg's recipes, which is only checked: the
            backbone tells it.

    Raises:
        ValueError: An unknown option, a rate outside (0, 1], or a backbone
            that cannot tell its depth, or tells another ``num_layers``.
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None
    ) -> None:
        # A non-empty dict, for the base class skips add_params without.
        options = {'layer_decay_rate': 1.0, **(paramwise_cfg or {})}
        super().__init__(optim_wrapper_cfg, options)
        unknown = set(options) - _OPTIONS
        if unknown:
            raise ValueError(
                f'LayerDecayConstructor has no option {sorted(unknown)}; '
                f'paramwise_cfg takes {sorted(_OPTIONS)}'
            )
        if not 0 < options['layer_decay_rate'] <= 1:
            raise ValueError(
                'layer_decay_rate must lie in (0, 1], got '
                f'{options["layer_decay_rate"]}'
            )
        for key, rule in options.get('custom_keys', {}).items():
            if not set(rule) <= {'lr_mult', 'decay_mult'}:
                raise ValueError(
                    f'custom_keys[{key!r}] takes lr_mult and decay_mult, got '
                    f'{sorted(rule)}'
                )

    def add_params(
        self, params: list[dict], module: nn.Module, **kwargs
    ) -> None:
        """Append one group for each pair of learning rate and decay.

        Args:
            params: The groups, appended to in place.
            module: The model, with ``backbone``.
            **kwargs: The base class's, for children; not used.
        """
        groups: dict[tuple[float, float], dict] = {}
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            lr_scale = self._lr_scale(module, name)
            decay = not (parameter.ndim <= 1 or _NO_DECAY.search(name))
            rule = self._custom_rule(name)
            lr_scale *= rule.get('lr_mult', 1.0)
            decay_scale = decay * rule.get('decay_mult', 1.0)
            group = groups.setdefault(
                (lr_scale, decay_scale),
                {
                    'params': [],
                    'param_names': [],
                    'lr': self.base_lr * lr_scale,
                    'lr_scale': lr_scale,
                },
            )
            if self.base_wd is not None:
                group['weight_decay'] = self.base_wd * decay_scale
            group['params'].append(parameter)
            group['param_names'].append(name)
        params.extend(groups.values())
        print_log(
            'Parameter groups (learning rate, weight decay, names):\n'
            + '\n'.join(
                f'{g["lr"]:.3g} {g.get("weight_decay")} '
                f'{json.dumps(g["param_names"])}'
                for g in params
            ),
            logger='current',
            level=logging.DEBUG,
        )

    def _lr_scale(self, model: nn.Module, name: str) -> float:
        rate = self.paramwise_cfg['layer_decay_rate']
        inside = name.removeprefix('backbone.')
        if rate == 1 or inside == name:
            return 1.0
        layer, total = layer_depth(model.backbone, inside)
        # The stem and the heads are counted beside the backbone's layers.
        num_layers = self.paramwise_cfg.get('num_layers', total - 2)
        if num_layers != total - 2:
            raise ValueError(
                f'paramwise_cfg.num_layers={num_layers}, but '
                f'{type(model.backbone).__name__} has {total - 2} layers; '
                'leave num_layers out'
            )
        return rate ** (total - 1 - layer)

    def _custom_rule(self, name: str) -> dict:
        rules = self.paramwise_cfg.get('custom_keys', {})
        fitting = [key for key in rules if key in name]
        return rules[max(fitting, key=len)] if fitting else {}
