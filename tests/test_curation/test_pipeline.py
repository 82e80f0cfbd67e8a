# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Steps run on what is missing or has other settings, and nothing else."""

import pytest

from minigpt4.curation.ledger import Ledger, Result
from minigpt4.curation.pipeline import plan, run_step
from minigpt4.utils.signals import StopRequest


class Append:
    """Appends a text; counts what it works on."""

    def __init__(self, name, text, **settings):
        self.name, self.text = name, text
        self.settings = dict(text=text, **settings)
        self.seen = []

    def run(self, items):
        for item in items:
            self.seen.append(item.image.id)
            yield Result(item.image.id, 'ok', item.text + self.text, {})


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / 'ledger.sqlite') as opened:
        opened.add_images((f'd{i}', f'/i/{i}.jpg', {}) for i in range(150))
        yield opened


def run(ledger, *steps, stop=None):
    planned = plan(ledger, steps)
    with stop or StopRequest() as request:
        for step in planned:
            run_step(ledger, step, request)
    return planned


def texts(ledger, planned):
    return [r.text for r in ledger.results(planned.number)]


def test_only_what_follows_a_change_runs_again(ledger):
    first, second = Append('a', 'x'), Append('b', 'y')
    planned = run(ledger, first, second)
    assert texts(ledger, planned[1]) == ['xy'] * 150
    assert first.seen == second.seen == list(range(1, 151))
    run(ledger, first, second)
    assert len(first.seen) == len(second.seen) == 150
    changed = Append('b', 'z')
    planned = run(ledger, first, changed)
    assert len(first.seen) == 150 and len(changed.seen) == 150
    assert texts(ledger, planned[1]) == ['xz'] * 150
    # the old settings find their old results
    planned = run(ledger, first, second)
    assert len(second.seen) == 150
    assert texts(ledger, planned[1]) == ['xy'] * 150


def test_a_change_of_an_early_step_makes_later_ones_stale(ledger):
    run(ledger, Append('a', 'x'), Append('b', 'y'))
    later = Append('b', 'y')
    planned = run(ledger, Append('a', 'w'), later)
    assert len(later.seen) == 150
    assert texts(ledger, planned[1]) == ['wy'] * 150


def test_new_images_run_alone(ledger):
    step = Append('a', 'x')
    run(ledger, step)
    ledger.add_images([('new', '/i/new.jpg', {})])
    run(ledger, step)
    assert step.seen[150:] == [151]


def test_results_before_an_error_are_kept(ledger):
    class Broken(Append):
        def run(self, items):
            for result in super().run(items):
                if result.image == 5:
                    raise OSError('disk')
                yield result

    with pytest.raises(OSError, match='disk'):
        run(ledger, Broken('a', 'x'))
    step = Append('a', 'x')
    run(ledger, step)
    assert step.seen == list(range(5, 151))


def test_a_stop_ends_after_the_images_in_work(ledger):
    stop = StopRequest()

    class Stopped(Append):
        def run(self, items):
            for result in super().run(items):
                yield result
                stop.signum = 15

    step = Stopped('a', 'x')
    run(ledger, step, stop=stop)
    assert step.seen == [1]
    again = Append('a', 'x')
    run(ledger, again)
    assert again.seen == list(range(2, 151))


def test_what_was_yielded_before_a_wait_is_stored(ledger):
    class Waiting(Append):
        def run(self, items):
            for result in super().run(items):
                yield result
                if result.image == 3:
                    yield None
                    self.stored = ledger.counts(self.number)['ok']

    step = Waiting('a', 'x')
    (planned,) = plan(ledger, [step])
    step.number = planned.number
    run(ledger, step)
    assert step.stored == 3
    assert ledger.counts(planned.number)['ok'] == 150


def test_half_a_character_is_the_failure_of_its_text(ledger):
    class Half(Append):
        def run(self, items):
            for result in super().run(items):
                if result.image == 2:
                    result = result._replace(text='a \ud83d')
                if result.image == 3:
                    result = Result(3, 'failed', '\udcff is no file.', {})
                yield result

    (step,) = run(ledger, Half('a', 'x'))
    assert ledger.counts(step.number) == dict(ok=148, dropped=0, failed=2)
    assert [r.text for r in ledger.failures(step.number)] == [
        'the text contains half a character or bytes that are not UTF-8 '
        '(U+D83D, character 3); the next run tries again.',
        '\\udcff is no file.',
    ]
