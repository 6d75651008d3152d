"""From a network for images to one for volumes.

Nothing here knows a backbone: the backbone door asks for an adapter.
"""

from .halvings import (
    ISOTROPIC,
    Halvings,
    apply_halvings,
    check_halvings,
    depth_stride,
    plan_halvings,
)
from .rules import RULES, Adapter, allowed_adapters, choose_adapter
from .slicewise import Z_CONVS, Slicewise, slicewise
from .surgery import ACSConv, to_volumes

__all__ = [
    'ISOTROPIC',
    'RULES',
    'Z_CONVS',
    'ACSConv',
    'Adapter',
    'Halvings',
    'Slicewise',
    'allowed_adapters',
    'apply_halvings',
    'check_halvings',
    'choose_adapter',
    'depth_stride',
    'plan_halvings',
    'slicewise',
    'to_volumes',
]
