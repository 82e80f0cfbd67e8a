# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The benchmarks' machinery; no speed is measured here."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent.parent / 'benchmarks'


@pytest.fixture
def run(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module('run')


@pytest.fixture
def harness(run):
    return importlib.import_module('harness')


STUB = """
import sys
sys.path.insert(0, {here!r})
import harness
def build():
    print('what a library prints is no answer')
    figure = {{'ours': 2.0, 'peer': 6.0}}[sys.argv[1]]
    return (lambda: figure), dict(loss=float(sys.argv[2]), ids=[1, 2])
harness.worker(build)
"""


@pytest.fixture
def sides(tmp_path):
    script = tmp_path / 'stub.py'
    script.write_text(STUB.format(here=str(HERE)))
    return lambda theirs='1': [
        [sys.executable, script, 'ours', '1'],
        [sys.executable, script, 'peer', theirs],
    ]


def test_every_row_has_its_file(run):
    assert set(run.ROWS) >= {
        's1-step',
        's1-cached',
        's2-step',
        'tower-nograd',
        'step-host',
        'loop-host',
        'image-pipe',
        'load',
        'rank-scale',
        'decode-host',
        'ttft',
        'caption-batch',
        'multi-choice',
        'batch-scale',
    }
    assert set(run.GPU_ROWS) == {
        's1-h200',
        's1-cached-h200',
        's2-h200',
        'vit-encode',
        'mem',
        'load-h200',
        'decode-b1',
        'ttft-h200',
        'caption-h200',
    }
    for module in {*run.ROWS.values(), *run.GPU_ROWS.values()}:
        assert callable(importlib.import_module(module).measure), module


def test_compare_takes_the_best_of_turns(harness, sides):
    row = harness.compare(
        'stub',
        *sides(),
        'ms',
        2.5,
        peer_name='stub',
        rate=False,
        scale=10,
        repeats=3,
    )
    assert set(harness.KEYS) <= set(row)
    assert (row['ours'], row['peer'], row['ratio']) == (20, 60, 3)
    assert row['guard_ok'] and row['met']
    assert row['median']['ratio'] == 3
    assert json.loads(json.dumps(row)) == row


def test_a_speed_without_its_guard_fails(harness, sides):
    row = harness.compare(
        'stub', *sides('1.001'), 's', 2, peer_name='stub', repeats=1
    )
    assert row['ratio'] == 3
    assert not row['guard_ok'] and not row['met']
    assert 'loss 1.0e-03' in row['guard']


def test_a_side_that_dies_is_reported(harness, sides, tmp_path):
    ours, _ = sides()
    bad = tmp_path / 'bad.py'
    bad.write_text('raise SystemExit(3)')
    with pytest.raises(RuntimeError, match=r'bad.py ended with 3'):
        harness.compare(
            'stub', ours, [sys.executable, bad], 's', 2, peer_name='stub'
        )


def test_guards(harness):
    def same(a, b, **more):
        return harness.compare_guards(
            dict(x=np.asarray(a)), dict(x=np.asarray(b)), **more
        )[0]

    assert same([1.0, 2.0], [1.0, 2.00001])
    assert not same([1.0, 2.0], [1.0, 2.001])
    assert same([1.0, 2.0], [1.0, 2.001], tolerance=dict(x=1e-2))
    assert not same([1.0], [float('nan')])
    assert same([1, 2], [1, 2]) and not same([1, 2], [1, 3])
    assert same('a', 'a') and not same('a', 'b')
    assert not same([1.0], [1.0, 1.0])
    assert not harness.compare_guards({}, {})[0]
    assert not harness.compare_guards(dict(x=np.ones(1)), {})[0]


def test_goals(harness):
    def met(**settings):
        settings = dict(guard_ok=True, ratio=2.0) | settings
        return harness.row('x', 5.0, 's', **settings)['met']

    assert met() and met(goal=2) and met(at_most=5) and met(at_least=5)
    assert not met(goal=2.1)
    assert not met(at_most=4.9)
    assert not met(at_least=5.1)
    assert not met(guard_ok=False)
    assert not met(ratio=None, goal=1)
    assert not harness.skipped('x', 's', 'why', goal=1.0)['met']


def test_the_command(run, harness, monkeypatch, tmp_path, capsys):
    class Stub:
        @staticmethod
        def measure(repeats):
            return [
                harness.row('stub', 1.0, 's', guard_ok=True, guard='loss'),
                harness.skipped('other', 's', 'no environment'),
            ]

    class Broken:
        @staticmethod
        def measure(repeats):
            raise ValueError('broke')

    monkeypatch.setitem(sys.modules, 'stub_row', Stub)
    monkeypatch.setitem(sys.modules, 'broken_row', Broken)
    monkeypatch.setattr(run, 'ROWS', dict(stub='stub_row'))
    file, results = tmp_path / 'out.json', tmp_path / 'results'
    arguments = ['--json', str(file), '--results', str(results)]
    for _ in range(2):
        assert run.main(arguments) == 0
    rows = json.loads(file.read_text())
    assert set(harness.KEYS) <= set(rows[0])
    assert rows[1]['skipped'] == 'no environment'
    (dated,) = results.iterdir()
    runs = json.loads(dated.read_text())
    assert len(runs) == 2  # appended
    assert runs[0]['rows'] == rows
    assert runs[0]['machine'] and runs[0]['versions']['torch']
    # a row that breaks off is told, and the others run
    monkeypatch.setattr(
        run, 'ROWS', dict(broken='broken_row', stub='stub_row')
    )
    assert run.main(arguments) == 1
    rows = json.loads(file.read_text())
    assert [row['name'] for row in rows] == ['broken', 'stub', 'other']
    assert rows[0]['error'] == 'broke'
    with pytest.raises(SystemExit):
        run.main(['nonsense'])
    assert 'there is no row nonsense' in capsys.readouterr().err


def test_a_stopped_run_keeps_its_rows(run, harness, monkeypatch, tmp_path):
    class Stopped:
        @staticmethod
        def measure(repeats):
            yield harness.row('first', 1.0, 's', guard_ok=True)
            yield harness.row('second', 2.0, 's', guard_ok=True)
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, 'stopped_row', Stopped)
    monkeypatch.setattr(run, 'ROWS', dict(stopped='stopped_row'))
    with pytest.raises(KeyboardInterrupt):
        run.main(['--results', str(tmp_path)])
    (dated,) = tmp_path.iterdir()
    (kept,) = json.loads(dated.read_text())
    assert [row['name'] for row in kept['rows']] == ['first', 'second']
