"""Show the encoders that build_model and the configs know, as a table."""

import argparse
import sys
from pathlib import Path

from upernet_ext.apis import list_encoders
from upernet_ext.models.backbones.encoders import encoder_table

# Below this line a document holds the table and nothing else.
MARKER = '<!-- tools/list_models.py --write docs/backbones.md -->\n'


def write(document: Path) -> None:
    """Replace the table in a document by that of all encoders."""
    text = document.read_text(encoding='utf-8')
    if MARKER not in text:
        raise ValueError(f'{document} has no line {MARKER.strip()!r}')
    table = encoder_table(list_encoders(), markdown=True)
    above = text.split(MARKER)[0]
    document.write_text(f'{above}{MARKER}\n{table}\n', encoding='utf-8')


def main() -> None:
    """Print the table, or write all of it into a document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--spatial-dims', type=int, choices=(2, 3))
    parser.add_argument('--family', help='such as resnet or dinov3')
    parser.add_argument('--write', type=Path, metavar='DOCUMENT')
    args = parser.parse_args()
    try:
        if args.write:
            write(args.write)
            return
        entries = list_encoders(
            spatial_dims=args.spatial_dims, family=args.family
        )
    except ValueError as error:
        sys.exit(f'error: {error}')
    sys.stdout.write(encoder_table(entries) + '\n')


if __name__ == '__main__':
    main()
