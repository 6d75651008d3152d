import subprocess
import sys

import pytest

from upernet_ext.import_noise import _import_quietly


@pytest.mark.parametrize('fails', [False, True])
def test_one_line_is_left_out_and_all_else_gets_through(
    tmp_path, monkeypatch, capsys, fails
):
    (tmp_path / 'noisy.py').write_text(
        f"print('noise')\nprint('a noise of use')\nassert not {fails}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    if fails:
        with pytest.raises(AssertionError):
            _import_quietly('noisy', 'noise')
    else:
        _import_quietly('noisy', 'noise')
        assert 'noisy' in sys.modules
        del sys.modules['noisy']
    assert capsys.readouterr().out == 'a noise of use\n'


@pytest.mark.slow
@pytest.mark.parametrize('package', ['models', 'datasets', 'evaluation'])
def test_a_first_import_says_nothing(package):
    done = subprocess.run(
        [sys.executable, '-c', f'import upernet_ext.{package}'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout + done.stderr == ''
