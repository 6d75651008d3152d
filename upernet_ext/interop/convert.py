"""Load whole segmentors of any library."""

from torch import nn

from .huggingface import from_upernet_head, to_upernet_head
from .inflate import inflate
from .key_style import KeyStyle, StateDict
from .parts import split_parts
from .pretrained import read_backbone
from .receipt import Change, Reading, Receipt, load_weights, wanted_names
from .styles import apply_style

# mmseg's heads and necks have our names.
_HEADS = KeyStyle(
    'transformers',
    lambda names: any(n.startswith('classifier.') for n in names),
    from_upernet_head,
    to_upernet_head,
)


def load_segmentor(
    model: nn.Module, state_dict: StateDict, *, source: str
) -> Receipt:
    """Load a whole segmentor of ours, mmseg or transformers.

    Whose names the file has is found out part by part. Where the model is one
    of volumes and the file is in 2D, its kernels are inflated.

    Args:
        model: Ours, with ``backbone`` and heads; any other model takes its
            own names only.
        state_dict: Of the whole model.
        source: Where it comes from, for messages.

    Raises:
        WeightsError: It does not fit; see ``load_weights``.
    """
    if not hasattr(model, 'backbone') or _is_own(model, state_dict):
        return load_weights(model, state_dict, source=source)
    names, renamed, styles = {}, {}, {}
    changes: list[Change] = []
    for part, inside in split_parts(state_dict).items():
        prefix = f'{part}.' if part else ''
        if part == 'backbone':
            reading, changes = read_backbone(
                model.backbone, inside, source=source
            )
        elif part.endswith('head') and _HEADS.recognises(inside):
            reading = apply_style(_HEADS, inside, source=source)
        else:
            reading = Reading(inside)
        names |= {prefix + k: v for k, v in reading.state_dict.items()}
        renamed |= {
            prefix + old: prefix + new for old, new in reading.renamed.items()
        }
        styles[reading.style] = None
    changes = [_inside_backbone(change) for change in changes]
    names, inflated = inflate(names, model)
    unused = getattr(model.backbone, 'unused_pretrained_keys', ())
    added = getattr(model.backbone, 'added_keys', ())
    return load_weights(
        model,
        names,
        source=source,
        ignored=[f'backbone.{name}' for name in unused],
        optional=[f'backbone.{name}' for name in added],
        changes=[*changes, *inflated],
        reading=Reading(names, ' and '.join(filter(None, styles)), renamed),
    )


def _is_own(model: nn.Module, state_dict: StateDict) -> bool:
    """Tell a file of such a model: every name is there, and of its rank."""
    own = model.state_dict()
    return all(
        name in state_dict and state_dict[name].ndim == own[here].ndim
        for name, here in wanted_names(model, state_dict).items()
    )


def _inside_backbone(change: Change) -> Change:
    return Change(**{**vars(change), 'name': f'backbone.{change.name}'})
