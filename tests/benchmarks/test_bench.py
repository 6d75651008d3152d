"""The bench: its arithmetic, its report, and rows that really run."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import measure, run
from benchmarks.compare import count_different, gradients, relative_error
from benchmarks.comparison import Comparison, Side
from benchmarks.measure import (
    flops,
    interleave,
    median,
    ratio,
    saved_bytes,
)
from benchmarks.report import document, plot, table
from benchmarks.row import OURS, Case, Goals, MissingPeerError, Row
from benchmarks.rows import ROWS, find_row


def _comparison(**changes) -> Comparison:
    given = dict(
        row='a-row',
        title='A row',
        peer='theirs',
        sizes=dict(image=64),
        ours=Side([3.0, 1.0, 2.0], memory=30, saved=10, flops=50),
        theirs=Side([4.0, 4.0, 100.0], memory=100, saved=20, flops=100),
        goals=Goals(time=0.5, memory=0.3, saved=0.4),
        float64_error=1e-13,
        noise=1.5,
    )
    return Comparison(**{**given, **changes})


def test_ratios_are_of_medians() -> None:
    found = _comparison()
    assert median([3.0, 1.0, 2.0]) == 2
    assert ratio(1, 0) is ratio(None, 1) is None
    assert found.ratio('time') == 0.5
    assert found.ratio('memory') == 0.3
    assert found.ratio('saved') == found.ratio('flops') == 0.5


@pytest.mark.parametrize(
    ('changes', 'faults'),
    [
        # A goal or gate that is just reached is met.
        (dict(goals=Goals(time=0.5, memory=0.3, saved=0.5)), []),
        ({}, ['saved bytes']),
        (
            dict(goals=Goals(time=0.49, memory=0.29)),
            ['time', 'peak memory'],
        ),
        (
            dict(goals=Goals(), float64_error=2e-12, noise=2.1),
            ['float64 error', 'float32 noise'],
        ),
        (dict(goals=Goals(), float64_error=2e-12, largest_error=1e-6), []),
        (dict(goals=Goals(), different=1), ['labels']),
        (dict(goals=Goals(), different=0), []),
        # What was not measured is no fault.
        (dict(goals=Goals(memory=0.1), theirs=Side([1.0])), []),
    ],
)
def test_faults_name_what_falls_short(
    changes: dict, faults: list[str]
) -> None:
    assert _comparison(**changes).faults == faults


def test_sides_take_turns_after_a_warm_up() -> None:
    order = []
    calls = {name: lambda n=name: order.append(n) for name in 'ab'}
    clock = itertools.count(1)

    def seconds(call: object) -> float:
        call()
        return next(clock)

    found = interleave(calls, seconds, repetitions=3)
    assert order == list('ab' * 4)
    assert found == dict(a=[1, 3, 5], b=[2, 4, 6])


def test_fast_calls_are_repeated() -> None:
    found = interleave(dict(a=dict), lambda call: 0.5, repetitions=2)
    assert len(found['a']) == 9


def test_errors_are_relative_and_of_the_worst_group() -> None:
    wanted = dict(
        loss=dict(loss=torch.tensor(2.0)),
        gradients=dict(a=torch.tensor([3.0, 0.0]), b=torch.tensor([4.0])),
    )
    found = dict(
        loss=dict(loss=torch.tensor(2.2)),
        gradients=dict(a=torch.tensor([3.0, 1.0]), b=torch.tensor([4.0])),
    )
    assert math.isclose(relative_error(found, wanted), 0.2, rel_tol=1e-6)
    found['loss'] = dict(loss=torch.tensor(2.6))
    assert math.isclose(relative_error(found, wanted), 0.3, rel_tol=1e-6)
    assert count_different(found, wanted) == 2
    del found['gradients']['b']
    with pytest.raises(ValueError, match=r"gradients.*\['b'\]"):
        relative_error(found, wanted)


def test_saved_bytes_count_each_storage_once_and_no_parameters() -> None:
    layer = nn.Linear(4, 4, bias=False)
    x = torch.randn(8, 4)

    def call() -> dict:
        # x is kept by the layer and by the last product, y as a whole and in
        # a view, the weight by nobody.
        y = layer(x)
        loss = (y * y[:, :1] * x).sum()
        return dict(gradients=gradients(loss, dict(w=layer.weight)))

    assert saved_bytes(call) == x.nbytes + 8 * 4 * 4
    # Forward, and the gradient of the weight alone.
    assert flops(call) == 2 * (2 * 8 * 4 * 4)
    assert layer.weight.grad is None


def test_table_and_plot(tmp_path: Path) -> None:
    comparisons = [
        _comparison(),
        _comparison(float64_error=None, different=3, goals=Goals()),
        _comparison(theirs=Side(), note='peer not installed'),
    ]
    first, second, third = table(comparisons).splitlines()[2:]
    assert first == (
        '| A row | theirs | 0.50 (≤ 0.5) | 0.30 (≤ 0.3) | 0.50 (≤ 0.4) '
        '| 0.50 | 1e-13 | 1.50 | saved bytes |'
    )
    assert '| 3 differ |' in second
    assert second.endswith('| labels |')
    assert third.endswith('| peer not installed |')
    assert len({line.count('|') for line in (first, second, third)}) == 1
    text = document(comparisons, command='a command', hardware='a CPU')
    assert '`a command` on a CPU' in text
    assert '- `a-row` against theirs: image 64' in text
    plot(comparisons, tmp_path / 'bench.png')
    assert (tmp_path / 'bench.png').read_bytes().startswith(b'\x89PNG')


def test_json_brings_a_comparison_back() -> None:
    found = _comparison()
    written = json.loads(json.dumps(found.to_dict()))
    assert written['ratios']['time'] == 0.5
    assert written['faults'] == ['saved bytes']
    assert Comparison.from_dict(written) == found


def test_missing_peer_is_named_and_the_row_goes_on() -> None:
    def absent(case: Case) -> None:
        raise MissingPeerError('peer not installed: pip install it')

    row = find_row('miou')
    (peer,) = row.peers
    values = {**vars(row), 'reduced': dict(size=(9, 8))}
    values['peers'] = (type(peer)('absent', absent), peer)
    options = run.Options(torch.device('cpu'), repetitions=2, peaks=False)
    first, second = run.run_row(Row(**values), options)
    assert first.missing
    assert first.note == 'peer not installed: pip install it'
    assert not second.missing
    assert second.different == 0


def test_every_row_has_its_own_name_and_sizes() -> None:
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    for row in ROWS:
        assert row.reduced.keys() == row.full.keys()
        assert OURS not in [peer.name for peer in row.peers]
    with pytest.raises(ValueError, match=r"no row 'x'.*'miou'"):
        find_row('x')
    with pytest.raises(ValueError, match=r'upernet_ext.*mmseg.*not .y'):
        find_row('miou').peer('y')


# Sizes at which a row takes a moment. UPerNet's deepest map has 6 pixels an
# axis: mmseg pools smaller ones to more cells than they have pixels.
SMALL = {
    'neck-head-loss': dict(channels=8, image=192, hidden=8),
    'head-loss-swin': dict(channels=[4, 6, 8, 10], image=192, hidden=8),
    'conv-4x': dict(channels=4, low=5),
    'conv-3d-2x': dict(channels=4, low=3),
    'upsample-ohem': dict(low=8),
    'upsample-dice-ce-3d': dict(low=4),
    'slide': dict(
        image=(64, 96), original=(81, 99), crop_size=(48, 48), stride=(32, 32)
    ),
    'post-process': dict(image=(64, 96), original=(81, 99)),
    'slide-3d': dict(
        image=(32, 40, 36), original=(32, 40, 36), crop_size=(16,) * 3
    )
    | dict(stride=(8,) * 3),
    'pipeline': dict(images=3),
    'vit-training': dict(image=32),
    'dinov2-training': dict(image=32),
    'training-step': dict(width=64, image=192, hidden=8),
    'inference': dict(width=64, image=192, hidden=8),
}


@pytest.mark.filterwarnings('ignore:``build_pixel_sampler``')
@pytest.mark.filterwarnings('ignore:Default ``avg_non_ignore``')
@pytest.mark.parametrize('name', SMALL)
def test_sides_compute_the_same(name: str) -> None:
    row = find_row(name)
    sizes = {**row.reduced, **SMALL[name]}
    dtype = torch.float64 if row.floating else torch.float32
    ours = row.build(OURS, Case(sizes, dtype))()
    compared = 0
    for peer in row.peers:
        try:
            theirs = row.build(peer.name, Case(sizes, dtype))()
        except MissingPeerError:
            continue
        if 'gradients' in theirs:
            theirs['gradients'] = peer.rename(theirs['gradients'])
        if not peer.same:
            continue
        compared += 1
        if row.floating:
            assert relative_error(ours, theirs) < 1e-6
        else:
            assert count_different(ours, theirs) == 0
    assert compared


@pytest.mark.slow
def test_a_row_runs_end_to_end(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, 'SECONDS', 0.0)
    numbers = tmp_path / 'numbers.json'
    threads = torch.get_num_threads()
    arguments = ['--only', 'slide', '--repetitions', '2', '--json']
    try:
        run.main([*arguments, str(numbers), '--out', str(tmp_path)])
    finally:
        torch.set_num_threads(threads)
    (found,) = json.loads(numbers.read_text())
    assert found['ratios']['memory'] > 0
    assert found['ours']['flops'] > 0
    assert found['different'] == 0
    written = (tmp_path / 'bench.md').read_text()
    assert capsys.readouterr().out.strip() in written
    assert 'python -m benchmarks.run --only slide' in written
    assert (tmp_path / 'bench.png').exists()


@pytest.mark.slow
def test_several_rows_run_apart(tmp_path: Path) -> None:
    numbers = tmp_path / 'numbers.json'
    options = ['--no-peaks', '--repetitions', '2', '--json', str(numbers)]
    threads = torch.get_num_threads()
    try:
        run.main(['--only', 'pipeline', 'miou', *options])
    finally:
        torch.set_num_threads(threads)
    found = json.loads(numbers.read_text())
    assert [c['row'] for c in found] == ['pipeline', 'miou']
    for comparison in found:
        assert comparison['different'] == 0
        assert comparison['ratios']['time'] > 0
        assert comparison['ratios']['memory'] is None
