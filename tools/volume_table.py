"""Measure what each adapter makes of each kind of encoder, as a table."""

import argparse
import sys
from pathlib import Path

from upernet_ext.models.backbones.volume_table import volume_table

# Below this line a document holds the table and nothing else.
MARKER = '<!-- tools/volume_table.py --write docs/volumes.md -->\n'


def main() -> None:
    """Print the table, or write it into a document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--write', type=Path, metavar='DOCUMENT')
    document = parser.parse_args().write
    if document is None:
        sys.stdout.write(volume_table() + '\n')
        return
    text = document.read_text(encoding='utf-8')
    if MARKER not in text:
        sys.exit(f'error: {document} has no line {MARKER.strip()!r}')
    above = text.split(MARKER)[0]
    document.write_text(
        f'{above}{MARKER}\n{volume_table()}\n', encoding='utf-8'
    )


if __name__ == '__main__':
    main()
