"""Names of Xception: only timm has the network, with our names."""

from .key_style import KeyStyle

STYLES = (
    KeyStyle(
        'timm',
        lambda names: any(n.startswith('block1.rep.0.conv1.') for n in names),
        dict,
        dict,
    ),
)
