# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Steps: their order, failures, continued and stopped runs."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from minigpt4.reproduction.steps import Step, log_file, run_steps
from minigpt4.utils.signals import StopSignal


def step(name, code, *needs):
    return Step(name, (sys.executable, '-c', code), needs)


def append(word):
    return f"open('words', 'a').write('{word} ')"


def run(steps, folder, jobs=2):
    lines = []
    outcome = run_steps(steps, folder, jobs, os.environ, lines.append)
    return outcome, lines


def test_steps_run_after_those_that_they_need(tmp_path):
    steps = [
        step('a', 'import time; time.sleep(.3);' + append('a')),
        step('b', append('b'), 'a'),
        step('c', append('c'), 'b'),
    ]
    outcome, lines = run(steps, tmp_path)
    assert (tmp_path / 'words').read_text() == 'a b c '
    assert outcome.done == {'a', 'b', 'c'}
    assert not outcome.failed and not outcome.skipped
    assert lines[-1].startswith('[3/3] c in ')
    assert lines[-1].endswith('about 0 min left')


def test_independent_steps_run_at_the_same_time(tmp_path):
    wait = (
        "import os, time; open('{0}', 'w'); end = time.time() + 30\n"
        "while not os.path.exists('{1}') and time.time() < end: "
        'time.sleep(.05)\n'
        "assert os.path.exists('{1}')"
    )
    steps = [
        step('a', wait.format('x', 'y')),
        step('b', wait.format('y', 'x')),
    ]
    assert run(steps, tmp_path)[0].done == {'a', 'b'}


def test_ended_steps_do_not_run_again(tmp_path):
    run([step('a', append('a'))], tmp_path)
    steps = [step('a', append('a')), step('b', append('b'), 'a')]
    outcome, lines = run(steps, tmp_path)
    assert (tmp_path / 'words').read_text() == 'a b '
    assert outcome.done == {'a', 'b'}
    assert lines[0] == '1 of 2 steps have ended before'


@pytest.mark.parametrize('damage', ['', 'sho'], ids=['empty', 'truncated'])
def test_a_step_with_a_damaged_output_runs_again(tmp_path, damage):
    code = append('a') + ";open('out', 'w').write('short')"
    steps = [step('a', code)._replace(outputs=('out',))]
    run(steps, tmp_path)
    (tmp_path / 'out').write_text(damage)
    _, lines = run(steps, tmp_path)
    assert lines[0].startswith('a runs again: out is missing or has become')
    assert (tmp_path / 'out').read_text() == 'short'
    assert (tmp_path / 'words').read_text() == 'a a '
    _, lines = run(steps, tmp_path)  # a complete one does not
    assert lines == ['1 of 1 steps have ended before']


def test_an_output_that_nothing_needs_any_more_may_be_removed(tmp_path):
    made = step('a', "open('out', 'w').write('x')")
    steps = [made._replace(outputs=('out',)), step('b', append('b'), 'a')]
    run(steps, tmp_path)
    (tmp_path / 'out').unlink()
    assert run(steps, tmp_path)[1] == ['2 of 2 steps have ended before']
    # a new step needs it
    steps.append(step('c', append('c'), 'a'))
    run(steps, tmp_path)
    assert (tmp_path / 'out').exists()
    assert (tmp_path / 'words').read_text() == 'b c '


def test_a_step_with_a_damaged_record_runs_again(tmp_path):
    code = append('a') + ";import os;os.makedirs('out', exist_ok=True)"
    code += ";open('out/file', 'w').write('x')"
    steps = [step('a', code)._replace(outputs=('out',))]
    run(steps, tmp_path)
    for damage in ('{"seco', '', '[]'):
        (tmp_path / 'steps' / 'a.json').write_text(damage)
        _, lines = run(steps, tmp_path)
        assert lines[0].startswith('a runs again: steps/a.json is missing')
        assert (tmp_path / 'out' / 'file').exists()
    assert (tmp_path / 'words').read_text() == 'a a a a '


def test_a_failure_skips_what_needs_it_and_nothing_else(tmp_path):
    steps = [
        step('bad', "import sys; print('no luck'); sys.exit(3)"),
        step('needs bad', append('x'), 'bad'),
        step('needs that', append('x'), 'needs bad'),
        step('good', append('good')),
    ]
    outcome, _ = run(steps, tmp_path, jobs=1)
    assert outcome.done == {'good'}
    assert outcome.skipped == {'needs bad', 'needs that'}
    assert outcome.failed['bad'].startswith('exit status 3: no luck (see ')
    assert 'no luck' in log_file(tmp_path, 'bad').read_text()
    assert (tmp_path / 'words').read_text() == 'good '


def test_a_failed_step_runs_again(tmp_path):
    code = "import os; assert os.path.exists('now')"
    assert run([step('a', code)], tmp_path)[0].failed
    (tmp_path / 'now').touch()
    assert run([step('a', code)], tmp_path)[0].done == {'a'}


def test_a_step_waits_for_its_process_of_a_killed_command(tmp_path):
    old = f"""
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent when its parent dies
open('started', 'w')
end = time.time() + 60
while not os.path.exists('go') and time.time() < end:
    time.sleep(.05)
{append('old')}
"""
    parent = subprocess.Popen(
        [
            *(sys.executable, '-c'),
            'import os, pathlib, sys\n'
            'from minigpt4.reproduction.steps import Step, run_steps\n'
            f"step = Step('a', (sys.executable, '-c', {old!r}))\n"
            f'run_steps([step], pathlib.Path({str(tmp_path)!r}), 1, '
            'os.environ)',
        ]
    )
    while not (tmp_path / 'started').exists():
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    lines = []

    def say(line):
        lines.append(line)
        (tmp_path / 'go').touch()

    steps = [step('a', append('new'))]
    outcome = run_steps(steps, tmp_path, 1, os.environ, say)
    assert lines[0] == 'a of a killed command still runs'
    assert outcome.done == {'a'}
    assert (tmp_path / 'words').read_text() == 'old new '


def test_a_signal_stops_the_running_steps(tmp_path):
    code = (
        "import os, signal, time; open('started', 'w').write(str(os.getpid()))"
        '\nwhile True: time.sleep(.1)'
    )

    def stop():
        while not (tmp_path / 'started').exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(StopSignal):
        run([step('a', code), step('b', append('b'), 'a')], tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / 'started').read_text()), 0)
    assert not (tmp_path / 'words').exists()
