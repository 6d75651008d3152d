"""The tool that converts and shows files."""

import importlib.util
from pathlib import Path

import pytest
import torch

from upernet_ext.config import ConfigError
from upernet_ext.conversion import convert, describe

from .conftest import QUIET, small_model

_SPEC = importlib.util.spec_from_file_location(
    'convert_tool', Path(__file__).parents[2] / 'tools' / 'convert.py'
)
_TOOL = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_TOOL)
pytestmark = QUIET


def test_tool_converts_and_shows(tmp_path, capsys) -> None:
    model = small_model('convnext')
    folder = model.save_pretrained(tmp_path / 'a')
    _TOOL.main([str(folder), str(tmp_path / 'tf'), '--to', 'transformers'])
    _TOOL.main(
        [str(tmp_path / 'tf'), str(tmp_path / 'b'), '--to', 'upernet_ext']
    )
    capsys.readouterr()
    _TOOL.main(['--show', str(tmp_path / 'b')])
    shown = capsys.readouterr().out
    assert 'transformers (convnext)' in shown
    assert 'classes: sky, road, car' in shown
    assert f'loaded from {tmp_path / "tf"}' in shown
    numbers = {
        part: sum(
            p.numel() for p in getattr(model, part).state_dict().values()
        )
        for part in ('decode_head', 'auxiliary_head')
    }
    for part, number in numbers.items():
        assert any(
            line.split() == [part, f'{number:,}']
            for line in shown.splitlines()
        )


def test_show_names_the_style_of_any_file(tmp_path) -> None:
    weights = {
        f'module.layers.0.blocks.0.attn.{k}': torch.zeros(2, 2) for k in 'ab'
    }
    torch.save({'model': weights}, tmp_path / 'a.pth')
    shown = describe(tmp_path / 'a.pth')
    assert "official (mmseg.SwinTransformer) behind 'module.'" in shown
    assert '2 tensors, 8 values' in shown
    assert 'no receipt in it' in shown


def test_tool_says_what_is_missing(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        _TOOL.main(['only-a-source.pth'])
    assert 'give SRC, DST and --to' in capsys.readouterr().err
    source = tmp_path / 'a.pth'
    torch.save({'a': torch.zeros(1)}, source)
    with pytest.raises(SystemExit, match='has no config in it'):
        _TOOL.main([str(source), str(tmp_path / 'b'), '--to', 'mmseg'])
    with pytest.raises(ConfigError, match='neither a config file'):
        convert(source, tmp_path / 'b', to='mmseg', config='vitt')
