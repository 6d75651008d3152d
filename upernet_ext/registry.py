"""The registries of scope ``upernet_ext``, children of mmengine's roots.

A type written ``upernet_ext.X`` is found from any default scope: mmengine
imports this module, and each registry imports its locations, on first use.
"""

from mmengine import registry as root
from mmengine.registry import Registry

SCOPE = 'upernet_ext'


def _child(name: str, parent: Registry, *locations: str) -> Registry:
    return Registry(
        name,
        parent=parent,
        scope=SCOPE,
        locations=[f'upernet_ext.{location}' for location in locations],
    )


MODELS = _child('model', root.MODELS, 'models', 'compat')
DATASETS = _child('dataset', root.DATASETS, 'datasets')
TRANSFORMS = _child('transform', root.TRANSFORMS, 'datasets.transforms')
METRICS = _child('metric', root.METRICS, 'evaluation')
HOOKS = _child('hook', root.HOOKS, 'engine')
RUNNERS = _child('runner', root.RUNNERS, 'engine')
LOG_PROCESSORS = _child('log processor', root.LOG_PROCESSORS, 'engine')
OPTIM_WRAPPERS = _child('optim_wrapper', root.OPTIM_WRAPPERS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child(
    'optimizer wrapper constructor',
    root.OPTIM_WRAPPER_CONSTRUCTORS,
    'engine',
)
