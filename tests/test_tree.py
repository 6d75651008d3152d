"""The tree explains itself: who imports whom, and where ranks are named."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / 'upernet_ext'
FILES = sorted(PACKAGE.rglob('*.py'))
# DESIGN: a folder imports only from the ones before it.
ORDER = [
    'import_noise',
    '__init__',
    'registry',
    'config',
    'structures',
    'layers',
    'interop',
    'datasets',
    'models',
    'evaluation',
    'visualization',
    'engine',
    'apis',
    'conversion',
    'compat',
]
MODELS_ORDER = [
    'losses.slabs',
    'losses.segmentation_loss',
    'losses',
    'data_preprocessor',
    'adapters',
    'backbones',
    'necks',
    'decode_heads',
    'tuning',
    'segmentors',
    '__init__',
]
RANKED = re.compile(
    r'\b(nn|F)\.\w+[23]d\b|'
    r'\b(Conv|BatchNorm|InstanceNorm|Dropout|MaxPool|AvgPool)[23]d\b|'
    r"'(bi|tri)linear'"
)


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(parts)


def _imports(path: Path) -> list[str]:
    """Modules of this package that a file imports, from the package's root."""
    found = []
    here = ['upernet_ext', *_module(path).split('.')]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            base = here[: -node.level] if node.level else []
            name = '.'.join([*base, *([node.module] if node.module else [])])
            names = [f'{name}.{alias.name}' for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found += [
            n.removeprefix('upernet_ext.')
            for n in names
            if n.startswith('upernet_ext.')
        ]
    return found


def _rank(module: str, order: list[str]) -> int:
    for i, name in enumerate(order):
        if module == name or module.startswith(f'{name}.'):
            return i
    raise AssertionError(f'{module}: put it into the order of this test')


@pytest.mark.parametrize('path', FILES, ids=_module)
def test_no_backward_import(path: Path) -> None:
    module = _module(path)
    for imported in _imports(path):
        if imported == '__version__':
            continue
        assert _rank(imported, ORDER) <= _rank(module, ORDER), imported
        both = (module, imported)
        if all(name.startswith('models.') for name in both):
            mine, other = (n.removeprefix('models.') for n in both)
            # The losses know no other part of the models.
            assert _rank(other, MODELS_ORDER) <= _rank(mine, MODELS_ORDER)


def test_the_import_test_sees_relative_imports() -> None:
    head = PACKAGE / 'models' / 'decode_heads' / 'uper_head.py'
    assert 'layers.rank.resize' in _imports(head)
    assert 'models.decode_heads.decode_head.DecodeHead' in _imports(head)


@pytest.mark.parametrize('path', FILES, ids=_module)
def test_ranks_are_named_behind_one_door(path: Path) -> None:
    module = _module(path)
    if module.startswith(('layers.rank', 'layers.norms', 'models.adapters')):
        return
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        text = ast.unparse(node) if isinstance(node, ast.Attribute) else ''
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = '' if id(node) in docstrings else repr(node.value)
        found = RANKED.search(text)
        assert not found, f'line {node.lineno}: {text}'


@pytest.mark.parametrize('text', ['nn.Conv2d', 'F.avg_pool3d', "'bilinear'"])
def test_the_rank_test_sees(text: str) -> None:
    assert RANKED.search(text)


def test_no_utils_and_no_second_versions() -> None:
    names = [p.stem for p in PACKAGE.rglob('*')]
    assert not [n for n in names if n == 'utils' or n.endswith(('_3d', '_2d'))]
