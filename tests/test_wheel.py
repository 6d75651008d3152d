"""The wheel holds everything: code, configs and tools."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_an_installed_wheel_works_away_from_the_clone(tmp_path: Path) -> None:
    source = tmp_path / 'source'
    # A copy, because building leaves folders behind; no cache, no data.
    tracked = subprocess.run(
        ['git', 'ls-files', '-co', '--exclude-standard'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in tracked:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, '-m', 'pip', '--disable-pip-version-check']
    subprocess.run(
        [
            *(*pip, 'wheel', '--quiet', '--no-deps', '--no-build-isolation'),
            *('--wheel-dir', str(tmp_path), str(source)),
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob('upernet_ext-*.whl')
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
        archive.extractall(tmp_path / 'site')
    for folder in ('configs', 'tools'):
        for path in (ROOT / folder).rglob('*'):
            if path.suffix in ('.py', '.sh'):
                name = f'upernet_ext/{path.relative_to(ROOT).as_posix()}'
                assert name in inside
    assert not [n for n in inside if n.startswith('tests')]
    shown = subprocess.run(
        [
            *(sys.executable, '-m', 'upernet_ext.tools.print_config'),
            'upernet_vit-l_ade20k.py',
        ],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(tmp_path / 'site')},
        capture_output=True,
        text=True,
    )
    assert shown.returncode == 0, shown.stderr
    assert "type='upernet_ext.EncoderDecoder'" in shown.stdout
