# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The step on a ledger: nothing is asked or paid for twice."""

import collections
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from tests.chat_endpoint import chat_endpoint, completion, draft_of

from minigpt4.curation.ledger import Ledger, Result
from minigpt4.curation.pipeline import plan, run_step
from minigpt4.curation.repair import RepairStep
from minigpt4.curation.repair_settings import RepairSettings
from minigpt4.endpoints.answers import Answer, EndpointError
from minigpt4.endpoints.cost import CostLimitError
from minigpt4.utils.signals import StopRequest

OFF = dict(language='ignore')


class Drafts:
    """The step before: a text for each image."""

    name = 'describe'

    def __init__(self, text='A dog runs on beach number {}.'):
        self.text = text
        self.settings = dict(text=text)

    def run(self, items):
        for item in items:
            yield Result(
                item.image.id, 'ok', self.text.format(item.image.id), {}
            )


class Backend:
    """Answers with a function of the draft; counts."""

    def __init__(self, answer=str.upper):
        self.answer, self.asked = answer, []

    def answers(self, requests):
        for request in requests:
            if request is None:
                yield None
            elif request.known is not None:
                yield request, request.known
            else:
                self.asked.append(request.item.text)
                answer = self.answer(request.item.text)
                if isinstance(answer, str):
                    answer = Answer(answer, '', 100, 50)
                yield request, answer


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / 'ledger.sqlite') as opened:
        opened.add_images((f'd{i}', f'/i/{i}.jpg', {}) for i in range(1, 21))
        yield opened


def settings(**fields):
    guard = {**OFF, **fields.pop('guard', {})}
    return RepairSettings(
        **{'backend': 'openai', 'model': 'm', 'guard': guard, **fields}
    )


def run(ledger, step, drafts=None):
    planned = plan(ledger, [drafts or Drafts(), step])
    with StopRequest() as stop:
        for each in planned:
            run_step(ledger, each, stop)
    return planned[1].number


def test_texts_are_repaired_with_their_details(ledger):
    backend = Backend(lambda draft: draft.replace('beach', 'a beach'))
    prices = dict(price_prompt=1.0, price_completion=10.0)
    number = run(ledger, RepairStep(settings(**prices), backend))
    first = next(ledger.results(number))
    assert first.text == 'A dog runs on a beach number 1.'
    assert first.details.pop('draft_digest')
    assert first.details == {
        'flags': [],
        'cost_usd': pytest.approx((100 + 500) / 1e6),
        'prompt_tokens': 100,
        'completion_tokens': 50,
        'changed': True,
    }
    run(ledger, RepairStep(settings(**prices), backend))
    assert len(backend.asked) == 20


def test_no_backend_and_no_text_pass_unchanged(ledger):
    number = run(ledger, RepairStep(RepairSettings()))
    assert next(ledger.results(number)).text == 'A dog runs on beach number 1.'
    backend = Backend()
    number = run(ledger, RepairStep(settings(), backend), Drafts(' '))
    assert backend.asked == []
    for result in ledger.results(number):
        assert result.text == ' ' and result.details['changed'] is False


@pytest.mark.parametrize(
    ('action', 'status', 'text'),
    [
        ('flag', 'ok', 'A dog runs and a cat.'),
        ('reject', 'ok', 'A dog runs on beach number 1.'),
        ('fail', 'failed', 'The repair names objects that the draft lacks'),
        ('ignore', 'ok', 'A dog runs and a cat.'),
    ],
)
def test_the_action_of_a_flag(ledger, action, status, text):
    step = RepairStep(
        settings(guard=dict(added_object=action)),
        Backend(lambda draft: 'A dog runs and a cat.'),
    )
    number = run(ledger, step)
    found = [*ledger.results(number), *ledger.failures(number)][0]
    assert found.status == status and found.text.startswith(text)
    reasons = [flag['reason'] for flag in found.details['flags']]
    assert reasons == ([] if action == 'ignore' else ['added_object'])
    if action == 'reject':
        assert found.details['answer'] == 'A dog runs and a cat.'
        assert found.details['changed'] is False


def test_another_guard_asks_nothing_again(ledger):
    backend = Backend(lambda draft: 'A dog runs and a cat.')
    prices = dict(price_prompt=1.0, price_completion=1.0)
    for action in ('flag', 'reject', 'ignore', 'flag'):
        number = run(
            ledger,
            RepairStep(
                settings(guard=dict(added_object=action), **prices), backend
            ),
        )
        (result, *_) = ledger.results(number)
        kept = result.text == 'A dog runs and a cat.'
        assert kept is (action != 'reject')
    assert len(backend.asked) == 20
    run(ledger, RepairStep(settings(prompt='Other.', **prices), backend))
    assert len(backend.asked) == 40
    run(
        ledger,
        RepairStep(settings(prompt='Other.', **prices), backend),
        Drafts('Other drafts {}.'),
    )
    assert len(backend.asked) == 60


def test_a_failed_text_is_asked_again_by_the_next_run(ledger):
    backend = Backend(lambda draft: Answer('', 'cut off.', 10, 512))
    prices = dict(price_prompt=0.0, price_completion=1.0)
    step = RepairStep(settings(**prices), backend)
    number = run(ledger, step)
    assert ledger.counts(number) == dict(ok=0, dropped=0, failed=20)
    assert ledger.failures(number)[0].text == 'cut off.'
    # its tokens were paid for
    assert ledger.sum_details('repair', 'cost_usd')[0] == pytest.approx(
        20 * 512 / 1e6
    )
    backend.answer = str.lower
    run(ledger, RepairStep(settings(**prices), backend))
    assert ledger.counts(number)['ok'] == 20 and len(backend.asked) == 40


def test_max_cost_stops_before_it_is_exceeded(ledger):
    fields = dict(
        price_prompt=0.0, price_completion=1000.0, max_tokens=50, max_cost=0.26
    )
    backend = Backend()  # each answer costs 0.05
    with pytest.raises(CostLimitError) as raised:
        run(ledger, RepairStep(settings(**fields), backend))
    assert str(raised.value) == (
        'repairs have cost $0.250000, and the next request might exceed '
        'max_cost = $0.260000; what was repaired is kept, raise max_cost to '
        'continue.'
    )
    assert len(backend.asked) == 5
    # the tally survives the process
    with pytest.raises(CostLimitError):
        run(ledger, RepairStep(settings(**fields), backend))
    assert len(backend.asked) == 5
    fields['max_cost'] = 0.4
    with pytest.raises(CostLimitError):
        run(ledger, RepairStep(settings(**fields), backend))
    assert len(backend.asked) == 8
    fields['max_cost'] = 1.01
    step = RepairStep(settings(**fields), backend)
    run(ledger, step)
    assert len(backend.asked) == len(set(backend.asked)) == 20
    assert step.tally.total_usd == pytest.approx(1.0)
    assert step.tally.run_usd == pytest.approx(0.6)


def test_max_cost_counts_what_is_in_work(ledger, monkeypatch):
    pytest.importorskip('openai')
    monkeypatch.setenv('REPAIR_KEY', 'x')

    def answer(message):
        time.sleep(0.02)
        return 200, {}, completion(draft_of(message), tokens=(1, 50))

    with chat_endpoint(answer) as endpoint:
        fields = dict(
            base_url=endpoint.url,
            api_key_env='REPAIR_KEY',
            concurrency=16,
            price_prompt=0.0,
            price_completion=1000.0,
            max_tokens=100,  # twice what an answer has
            max_cost=0.52,
        )
        with pytest.raises(CostLimitError):
            run(ledger, RepairStep(settings(**fields)))
    # 9 answers cost 0.45, and 0.1 more might exceed 0.52
    assert len(endpoint.messages) == 9
    assert ledger.sum_details('repair', 'cost_usd')[0] == pytest.approx(0.45)


def test_what_was_answered_before_the_endpoint_died_is_kept(ledger):
    def answer(draft):
        if len(backend.asked) > 7:
            raise EndpointError('dead.')
        return draft.upper()

    backend = Backend(answer)
    with pytest.raises(EndpointError):
        run(ledger, RepairStep(settings(), backend))
    backend.answer = str.upper
    number = run(ledger, RepairStep(settings(), backend))
    assert ledger.counts(number)['ok'] == 20
    counts = collections.Counter(backend.asked)
    assert sum(counts.values()) == 21 and max(counts.values()) == 2


def test_answers_are_recorded_and_replayed(ledger, tmp_path):
    file = str(tmp_path / 'answers.jsonl')
    backend = Backend()
    number = run(ledger, RepairStep(settings(record=file), backend))
    recorded = RepairSettings(
        backend='recorded', model='m', recorded=file, guard=OFF
    )
    again = run(ledger, RepairStep(recorded))
    assert again != number
    texts = [r.text for r in ledger.results(number)]
    assert texts == [r.text for r in ledger.results(again)]
    assert len(backend.asked) == 20


def test_reasoning_before_the_answer_is_removed(ledger, tmp_path):
    file = str(tmp_path / 'answers.jsonl')
    backend = Backend(
        lambda draft: f'<think>\nhmm the user\n</think>\n\n{draft.upper()}'
    )
    number = run(ledger, RepairStep(settings(record=file), backend))
    # the recorded answer is the one that came, and gives the same
    recorded = RepairSettings(
        backend='recorded', model='m', recorded=file, guard=OFF
    )
    for step in (number, run(ledger, RepairStep(recorded))):
        first = next(ledger.results(step))
        assert first.text == 'A DOG RUNS ON BEACH NUMBER 1.'
        assert first.details['reasoning'] == 'hmm the user'
        assert first.details['flags'] == []
    # it is known under other settings of the guard too
    guard = dict(marker='fail')
    number = run(ledger, RepairStep(settings(guard=guard), backend))
    assert next(ledger.results(number)).details['reasoning'] == 'hmm the user'
    assert len(backend.asked) == 20


def test_reasoning_that_is_not_closed_is_flagged(ledger):
    backend = Backend(lambda draft: f'<think>hmm {draft}')
    number = run(ledger, RepairStep(settings(), backend))
    (flag,) = next(ledger.results(number)).details['flags']
    assert flag['reason'] == 'marker' and '"<think>"' in flag['text']


def test_reasoning_alone_is_a_failure(ledger):
    backend = Backend(lambda draft: '<think>hmm</think>\n')
    number = run(ledger, RepairStep(settings(), backend))
    assert {r.text for r in ledger.failures(number)} == {
        'the answer has no text after its reasoning.'
    }


def test_half_a_character_fails_only_its_text(ledger):
    def answer(draft):
        return f'{draft} \ud83d' if ' 3.' in draft else draft.upper()

    fields = dict(price_prompt=0.0, price_completion=1.0)
    step = RepairStep(settings(**fields), Backend(answer))
    number = run(ledger, step)
    assert ledger.counts(number) == dict(ok=19, dropped=0, failed=1)
    (failure,) = ledger.failures(number)
    assert failure.image == 3 and failure.text == (
        'the answer contains half a character or bytes that are not UTF-8 '
        '(U+D83D, character 31); the next run asks again.'
    )
    # it was paid for
    assert failure.details['cost_usd'] == pytest.approx(50 / 1e6)


PROGRAM = """
    import sys
    from minigpt4.curation.ledger import Ledger
    from minigpt4.curation.pipeline import plan, run_step
    from minigpt4.curation.repair import RepairStep
    from minigpt4.curation.repair_settings import RepairSettings
    from minigpt4.utils.signals import StopRequest

    path, url = sys.argv[1:]
    settings = RepairSettings(
        backend='openai', model='m', base_url=url, api_key_env=None,
        concurrency=3, price_prompt=1, price_completion=1,
        guard=dict(language='ignore'),
    )

    class Drafts:
        name = 'describe'
        settings = dict(text='A dog runs on beach number {}.')

    with Ledger(path) as ledger, StopRequest() as stop:
        step = plan(ledger, [Drafts(), RepairStep(settings)])[1]
        run_step(ledger, step, stop)
"""


def test_a_killed_run_asks_again_only_what_was_in_work(ledger):
    pytest.importorskip('openai')
    (drafts,) = plan(ledger, [Drafts()])
    with StopRequest() as stop:
        run_step(ledger, drafts, stop)
    numbers, killed = itertools.count(1), threading.Event()

    def answer(message):
        if next(numbers) > 8:
            killed.wait(600)
        return draft_of(message).upper()

    command = [sys.executable, '-c', textwrap.dedent(PROGRAM)]
    environment = dict(os.environ, NO_PROXY='127.0.0.1')
    with chat_endpoint(answer) as endpoint:
        command += [str(ledger.path), endpoint.url]
        process = subprocess.Popen(command, env=environment)
        try:
            deadline = time.monotonic() + 500
            # 8 answers are stored although 3 requests still wait
            while _stored(ledger) < 8 or len(endpoint.messages) < 11:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed.set()
        assert len(endpoint.messages) == 11
        subprocess.run(command, env=environment, check=True, timeout=500)
    asked = collections.Counter(endpoint.messages)
    assert len(asked) == 20 and sum(asked.values()) == 23
    assert _stored(ledger) == 20


def _stored(ledger):
    return sum(
        ledger.counts(number)['ok']
        for number, _, name, _ in ledger.steps()
        if name == 'repair'
    )
