# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""tools/plot_log.py: logs of resumed runs, bad lines, figures."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / 'tools' / 'plot_log.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('plot_log', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def write_log(tmp_path):
    """Function of a time and rows or lines to the work dir of the log."""

    def write(time: str, *rows, run: str = 'run') -> Path:
        folder = tmp_path / run / time / 'vis_data'
        folder.mkdir(parents=True)
        lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
        (folder / 'scalars.json').write_text('\n'.join(lines))
        return tmp_path / run

    return write


def step(number: int, loss: float, **others) -> dict:
    return dict(step=number, iter=number, loss=loss, **others)


def test_a_later_log_replaces_steps_of_an_earlier_one(tool, write_log):
    write_log('20260102_000000', step(15, 5.0), step(25, 6.0))
    work_dir = write_log(
        '20260101_000000', *(step(10 * i, i) for i in (1, 2, 3))
    )
    run = tool.read_run(work_dir)
    assert run.curve('loss') == ([10, 15, 25], [1, 5, 6])
    assert run.files == 2 and run.bad_lines == 0


def test_bad_lines_are_counted_and_scores_are_no_steps(tool, write_log):
    write_log(
        '20260101_000000',
        step(10, 3.0),
        '',
        '[1]',
        '{"loss": 1}',
        '{"loss": 1, "step": true}',
        {'step': 10, 'nano/recall': 0.5},
        step(20, float('nan'), lr=0.1),
        '{"loss": 2.5, "st',
    )
    work_dir = write_log('20260102_000000', {'step': 0, 'nano/recall': 0.5})
    run = tool.read_run(work_dir)
    assert run.bad_lines == 4
    assert run.curve('loss') == ([10], [3.0])
    assert run.curve('lr') == ([20], [0.1])
    assert run.curve('grad_norm') == ([], [])


def test_smoothed_values(tool):
    assert tool.smoothed([1.0, 5.0], 0) == [1, 5]
    # (0.5 * 1 + 1 * 4) / 1.5, (0.25 * 1 + 0.5 * 4 + 1 * 1) / 1.75
    assert tool.smoothed([1.0, 4.0, 1.0], 0.5) == pytest.approx(
        [1, 3, 3.25 / 1.75]
    )
    assert tool.smoothed([2.0] * 9, 0.9) == pytest.approx([2.0] * 9)


@pytest.mark.parametrize('kind', ['html', 'svg', 'png'])
def test_figures(tool, write_log, tmp_path, monkeypatch, capsys, kind):
    runs = [
        write_log(
            '20260101_000000',
            *(step(i, 3 / (i + 1), lr=0.1, grad_norm=1) for i in range(9)),
            'bad',
            run=name,
        )
        for name in ('a <b> $x', 'b')
    ]
    out = tmp_path / f'out.{kind}'
    arguments = ['plot_log.py', *map(str, runs), '-o', str(out)]
    monkeypatch.setattr(sys, 'argv', arguments)
    assert tool.main() == 0
    data = out.read_bytes()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert '1 logs, 8 steps' in printed[0] and '1 bad lines' in printed[0]
    if kind == 'png':
        assert data.startswith(b'\x89PNG')
        return
    text = data.decode()
    assert text.count('<svg') == 1 and '<b>' not in text
    assert tool.main() == 0 and out.read_bytes() == data
    if kind == 'html':
        assert 'a &lt;b&gt; $x' in text


@pytest.mark.parametrize(
    ('arguments', 'status', 'message'),
    [
        (['gone', '-o', 'a.svg'], 1, 'gone has no vis_data/scalars.json'),
        (['run', '-o', 'a.svg'], 1, 'no step of a training'),
        (['run', '-o', 'a.pdf'], 2, 'ends in no .html'),
        (['run', '-o', 'a.svg', '--smooth', '1'], 2, '--smooth is 1.0'),
    ],
)
def test_errors(
    tool, write_log, tmp_path, monkeypatch, capsys, arguments, status, message
):
    write_log('20260101_000000', {'step': 0, 'nano/recall': 0.5})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['plot_log.py', *arguments])
    try:
        found = tool.main()
    except SystemExit as stop:
        found = stop.code
    assert found == status
    assert message in capsys.readouterr().err


def test_runs_without_a_log_are_passed_over(
    tool, write_log, tmp_path, monkeypatch, capsys
):
    write_log('20260101_000000', step(1, 2.0), run='short')
    monkeypatch.chdir(tmp_path)
    command = ['plot_log.py', 'gone', '--skip', '-o', 'a.svg']
    monkeypatch.setattr(sys, 'argv', command)
    assert tool.main() == 0
    assert not Path('a.svg').exists()
    command.insert(1, 'short')
    monkeypatch.setattr(sys, 'argv', command)
    capsys.readouterr()
    assert tool.main() == 0
    assert Path('a.svg').exists()
    absent, drawn = capsys.readouterr().out.splitlines()
    assert absent == 'gone: no curve, since no step of it was logged'
    assert drawn.startswith('short: 1 logs, 1 steps')
