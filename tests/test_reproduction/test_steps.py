# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Steps: their order, failures, continued and stopped runs."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import types

import pytest

from minigpt4.reproduction.steps import (
    Step,
    done_file,
    log_file,
    printed_lines,
    run_steps,
)
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
        "import os, time; open('{0}', 'w'); end = time.time() + 300\n"
        "while not os.path.exists('{1}') and time.time() < end: "
        'time.sleep(.05)\n'
        "assert os.path.exists('{1}')"
    )
    steps = [
        step('a', wait.format('x', 'y')),
        step('b', wait.format('y', 'x')),
    ]
    assert run(steps, tmp_path)[0].done == {'a', 'b'}


def test_the_longest_chain_comes_first(tmp_path):
    steps = [
        step('train', append('train')),
        step('test', append('test'), 'train'),
        step('long test', append('long'), 'train')._replace(cost=1.5),
        step('train on', append('on'), 'train'),
        step('test on', append('last'), 'train on'),
    ]
    assert run(steps, tmp_path, jobs=1)[0].done == {s.name for s in steps}
    assert (tmp_path / 'words').read_text() == 'train on long test last '


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


def test_a_damaged_folder_is_made_again(tmp_path):
    code = (
        append('a')
        + """
import os
os.makedirs('out/part', exist_ok=True)
open('out/part/b', 'w').write('b')
open('out/a', 'w').write('a')"""
    )
    steps = [step('a', code)._replace(outputs=('out',))]
    run(steps, tmp_path)
    for damage in ('out/part', 'out'):
        shutil.rmtree(tmp_path / damage)
        _, lines = run(steps, tmp_path)
        assert lines[0].startswith('a runs again: out/')
        assert (tmp_path / 'out' / 'part' / 'b').read_text() == 'b'
    assert (tmp_path / 'words').read_text() == 'a a a '


def test_an_output_outside_of_the_folder_is_made_again(tmp_path):
    out, folder = tmp_path / 'out', tmp_path / 'work'
    folder.mkdir()
    steps = [step('a', f"open({str(out)!r}, 'w').write('x')")]
    steps = [steps[0]._replace(outputs=(str(out),))]
    run(steps, folder)
    out.unlink()
    _, lines = run(steps, folder)
    assert lines[0].startswith(f'a runs again: {out} is missing')
    assert out.read_text() == 'x'


def test_printed_lines_are_of_the_last_attempt(tmp_path):
    code = """
import os
if not os.path.exists('now'):
    raise SystemExit('no luck')
print('made', 'made', sep='\\n')
"""
    run([step('a', code)], tmp_path)
    assert printed_lines(tmp_path, 'a') == ['no luck']
    (tmp_path / 'now').touch()
    run([step('a', code)], tmp_path)
    assert printed_lines(tmp_path, 'a') == ['made']
    assert 'no luck' in log_file(tmp_path, 'a').read_text()
    assert printed_lines(tmp_path, 'b') == []


def test_a_step_that_fails_without_a_line_has_no_line_of_another(tmp_path):
    code = "import os; os.path.exists('b') or print('x'); open('b', 'w');"
    code += 'import sys; sys.stdout.flush(); os._exit(1)'
    failed = run([step('a', code)], tmp_path)[0].failed
    assert failed['a'].startswith('exit status 1: x (see ')
    failed = run([step('a', code)], tmp_path)[0].failed
    assert failed['a'].startswith('exit status 1: it has written nothing (')


def test_an_output_in_the_report_is_made_again(tmp_path):
    made = step('a', "open('out', 'w').write('x')")
    made = made._replace(outputs=('out',), in_report=True)
    steps = [made, step('b', append('b'), 'a')]
    run(steps, tmp_path)
    (tmp_path / 'out').unlink()
    run(steps, tmp_path)
    assert (tmp_path / 'out').exists()
    assert (tmp_path / 'words').read_text() == 'b '


def test_a_step_that_fails_again_has_not_ended(tmp_path):
    code = "import os; assert not os.path.exists('no');open('out', 'w')"
    steps = [step('a', code)._replace(outputs=('out',))]
    run(steps, tmp_path)
    (tmp_path / 'out').unlink()
    (tmp_path / 'no').touch()
    assert run(steps, tmp_path)[0].failed
    assert not done_file(tmp_path, 'a').exists()


@pytest.mark.parametrize('status', [0, 1])
def test_a_step_with_incomplete_outputs_fails(tmp_path, status):
    def check(folder):
        found = (folder / 'out' / 'file').read_text()
        return '' if found == 'all' else f'{found}, expected all'

    def make(text, status):
        code = f"""
import os, sys
os.makedirs('out')
open('out/file', 'w').write({text!r})
print('the last line')
sys.exit({status})"""
        return step('a', code)._replace(outputs=('out',), check=check)

    outcome, _ = run([make('a part', status)], tmp_path)
    log = log_file(tmp_path, 'a')
    assert outcome.failed == {'a': f'a part, expected all (see {log})'}
    assert not (tmp_path / 'out').exists()
    assert run([make('all', 0)], tmp_path)[0].done == {'a'}


def test_partial_outputs_of_another_checkpoint_are_removed(tmp_path):
    train = step('train', "open('weights', 'w').write('x')")
    train = train._replace(outputs=('weights',))
    code = """
import os
os.makedirs('out', exist_ok=True)
open('out/answers', 'a').write('answer ')
assert os.path.exists('go')"""
    test = step('test', code, 'train')._replace(
        outputs=('out',), begins_after='train'
    )
    answers = tmp_path / 'out' / 'answers'
    for _ in range(2):  # it continues with the same checkpoint
        assert run([train, test], tmp_path)[0].failed
    assert answers.read_text() == 'answer answer '
    (tmp_path / 'weights').unlink()
    (tmp_path / 'go').touch()
    assert run([train, test], tmp_path)[0].done == {'train', 'test'}
    assert answers.read_text() == 'answer '
    # the results of a test that has ended are kept
    done_file(tmp_path, 'train').unlink()
    run([train, test], tmp_path)
    assert answers.read_text() == 'answer '


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


@pytest.mark.parametrize(
    'text', ['null', '{"sizes": [1]}', '{"sizes": {"x": "y"}}', None]
)
def test_a_record_of_another_kind_runs_its_step_again(tmp_path, text):
    steps = [step('a', append('a'))]
    run(steps, tmp_path)
    record = done_file(tmp_path, 'a')
    if text is None:
        record.unlink()
        record.mkdir()
    else:
        (tmp_path / 'x').touch()
        record.write_text(text)
    assert run(steps, tmp_path)[0].done == {'a'}
    assert (tmp_path / 'words').read_text() == 'a a '


def test_a_fifo_as_a_record_or_log_is_not_waited_for(tmp_path):
    steps = [step('a', append('a'))]
    run(steps, tmp_path)
    record = done_file(tmp_path, 'a')
    record.unlink()
    os.mkfifo(record)
    assert run(steps, tmp_path)[0].done == {'a'}
    record.unlink()
    log = tmp_path / 'logs' / 'a.log'
    log.unlink()
    os.mkfifo(log)
    with pytest.raises(ValueError, match='a.log is not a regular file; del'):
        run(steps, tmp_path)


def test_a_step_that_has_not_made_its_output_has_failed(tmp_path):
    made = step('a', 'pass')._replace(outputs=('file',))
    outcome, _ = run([made], tmp_path)
    assert outcome.failed['a'].startswith('it has ended, but file is missing')
    assert not done_file(tmp_path, 'a').exists()
    # curves of trainings that logged no step
    optional = made._replace(needs_all=False)
    assert run([optional], tmp_path)[0].done == {'a'}


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


def test_a_step_may_run_without_what_failed(tmp_path):
    code = "import os; assert os.path.exists('now')"
    steps = [
        step('bad', code),
        step('skipped', append('x'), 'bad'),
        step('good', append('good')),
        step('some', append('some'), 'skipped', 'good'),
    ]
    steps[-1] = steps[-1]._replace(needs_all=False)
    outcome, _ = run(steps, tmp_path)
    assert outcome.done == {'good', 'some'}
    assert (tmp_path / 'words').read_text() == 'good some '
    # what was missing is made, so it runs again, once
    (tmp_path / 'now').touch()
    for _ in range(2):
        assert len(run(steps, tmp_path)[0].done) == 4
    assert (tmp_path / 'words').read_text() == 'good some x some '


@pytest.mark.parametrize(
    'name, reason',
    [
        ('SIGKILL', 'was killed (SIGKILL), often because memory ran out (see'),
        ('SIGTERM', 'was ended by SIGTERM: the last line (see'),
    ],
)
def test_a_signal_that_ended_a_step_is_named(tmp_path, name, reason):
    code = (
        "import os, signal; print('the last line', flush=True);"
        f'os.kill(os.getpid(), signal.{name})'
    )
    outcome, _ = run([step('a', code)], tmp_path)
    assert outcome.failed['a'].startswith(reason)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    usage = types.SimpleNamespace(free=4096)
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: usage)
    outcome, _ = run([step('a', 'raise SystemExit(1)')], tmp_path)
    assert outcome.failed['a'].startswith('no space is left on the disk; free')


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
end = time.time() + 600
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

    started = tmp_path / 'started'

    def stop():
        while not (started.exists() and started.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    with pytest.raises(StopSignal):
        run([step('a', code), step('b', append('b'), 'a')], tmp_path)
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    assert not (tmp_path / 'words').exists()
