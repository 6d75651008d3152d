import json
import os
import re
from pathlib import Path

import pytest
import torch

from upernet_ext.engine import peak_memory


@pytest.mark.skipif(torch.cuda.is_available(), reason='of the CPU')
def test_progress_line_tells_loss_eta_and_memory(make_runner):
    runner = make_runner(
        log_level='INFO',
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        log_processor=dict(type='upernet_ext.LogProcessor', by_epoch=False),
    )
    runner.train()
    (log,) = Path(runner.log_dir).glob('*.log')
    lines = [s for s in log.read_text().split('\n') if 'Iter(train)' in s]
    assert len(lines) == 2
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    resident = pages * os.sysconf('SC_PAGE_SIZE') >> 20
    for line in lines:
        assert re.search(r'eta: \d+:\d\d:\d\d ', line)
        assert re.search(r' loss: \d+\.\d+', line)
        memory = int(re.search(r' memory: (\d+)', line)[1])
        assert 0.5 * resident < memory < 4 * resident
    (scalars,) = Path(runner.log_dir).rglob('scalars.json')
    assert json.loads(scalars.read_text().split('\n')[0])['memory'] > 0


def test_peak_memory_is_in_mebibytes_and_keeps_the_peak():
    before = peak_memory('cpu')
    block = torch.ones(before + 128, 2**18)  # so many MiB: past the peak
    peak = peak_memory('cpu')
    assert before + 100 < peak < 2 * before + 200
    del block
    assert peak_memory('cpu') >= peak
