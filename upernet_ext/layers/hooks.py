"""Who else takes part when a module is called."""

from torch import nn


def runs_only_itself(module: nn.Module) -> bool:
    """Tell whether a call is the class's forward, without hooks.

    Only then may its parent compute the same from its parameters.
    """
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return 'forward' not in vars(module) and not any(hooks)
