# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Many messages within a limit of the cost."""

import json

import pytest

from minigpt4.endpoints.answers import Answer, Request
from minigpt4.endpoints.ask import ask
from minigpt4.endpoints.cost import CostLimitError, Tally
from minigpt4.endpoints.settings import EndpointSettings


class Backend:
    """Answers each message with its capitals; 100 and 50 tokens."""

    def answers(self, requests):
        for request in requests:
            if request is None:
                yield None
                continue
            known = request.known
            yield (
                request,
                known or Answer(request.message.upper(), '', 100, 50),
            )


class Slots:
    """Has up to two requests in work; answers the oldest one.

    Args:
        answers: The answer to each message.

    Attributes:
        in_work: The number of requests in work before each answer.
    """

    def __init__(self, **answers):
        self.given = answers
        self.in_work = []

    def answers(self, requests):
        running, more = [], True
        while more or running:
            while more and len(running) < 2:
                request = next(requests, 'end')
                if request is None:
                    break
                more = request != 'end'
                running += [request] if more else []
            yield None
            if running:
                self.in_work.append(len(running))
                request = running.pop(0)
                yield request, self.given[request.message]


def settings(**fields):
    fields = dict(price_prompt=1, price_completion=2, max_tokens=60) | fields
    return EndpointSettings(backend='openai', model='m', **fields)


def asked(given, *messages, known=None, backend=None):
    tally = Tally(given)
    requests = (Request(i, m, known=known) for i, m in enumerate(messages))
    return tally, ask(backend or Backend(), given, tally, requests)


def test_answers_have_their_cost(tmp_path):
    record = tmp_path / 'answers.jsonl'
    tally, answers = asked(settings(record=str(record)), 'a', 'b')
    found = [*answers]
    assert [a.answer.text for a in found] == ['A', 'B']
    assert found[0][2:] == (pytest.approx(200e-6), 100, 50)
    assert tally.run_usd == pytest.approx(400e-6) and tally.reserved == 0
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [(line['message'], line['answer']) for line in lines] == [
        ('a', 'A'),
        ('b', 'B'),
    ]


def test_known_answers_cost_nothing():
    tally, answers = asked(settings(max_cost=0), 'a', known=Answer('x'))
    (found,) = answers
    assert found.answer.text == 'x' and found.cost_usd == 0
    assert tally.answered == 0


def test_the_limit_ends_the_run_after_what_was_paid():
    # a request costs 0.0002, and at most 65 + 2 * 60 = 185 millionths
    tally, answers = asked(settings(max_cost=0.0005), *'abcd')
    found = []
    with pytest.raises(CostLimitError, match='what was answered is kept'):
        for answer in answers:
            found.append(answer)
    assert [a.answer.text for a in found] == ['A', 'B']
    assert tally.total_usd == pytest.approx(0.0004)


def test_reasoning_is_no_part_of_the_answer(tmp_path):
    record = tmp_path / 'answers.jsonl'
    texts = dict(
        a='<think>A dog,\nno cat.</think>\n\nYes.',
        b=' <THINK>It is cut.</think> ',
        c='<think>It does not end.',
    )
    backend = Slots(**{k: Answer(t, '', 100, 50) for k, t in texts.items()})
    tally, answers = asked(
        settings(record=str(record)), *texts, backend=backend
    )
    one, two, three = [a.answer for a in answers if a is not None]
    assert (one.text, one.reasoning) == ('Yes.', 'A dog,\nno cat.')
    assert (two.text, two.reasoning) == ('', 'It is cut.')
    assert two.problem == 'the answer has no text after its reasoning.'
    assert (three.text, three.problem) == (texts['c'], '')
    # all of it is paid for; what cannot be used is not recorded
    assert tally.run_usd == pytest.approx(3 * 200e-6)
    assert (tally.answered, tally.failed) == (2, 1)
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [line['answer'] for line in lines] == [texts['a'], texts['c']]


def test_a_failure_costs_the_tokens_that_were_generated():
    backend = Slots(
        a=Answer('', 'the answer is cut off.', 100, 60),
        b=Answer('', 'the connection failed.'),
    )
    tally, answers = asked(settings(), 'a', 'b', backend=backend)
    found = [a for a in answers if a is not None]
    assert found[0][2:] == (pytest.approx(220e-6), 100, 60)
    assert found[1][2:] == (0, 0, 0)
    assert (tally.answered, tally.failed) == (0, 2)


def test_tokens_that_are_not_counted_are_estimated():
    # 4 characters are a token, fewer too: 2 of the message, 3 of the answer
    backend = Slots(message=Answer('nine or a'))
    _, answers = asked(settings(), 'message', backend=backend)
    (found,) = [a for a in answers if a is not None]
    assert found[2:] == (pytest.approx((2 + 2 * 3) / 1e6), 2, 3)


@pytest.mark.parametrize(
    ('limit', 'in_work'),
    [
        # each request reserves 185 millionths and costs 20
        (500e-6, [2, 2, 2, 2, 1]),
        (400e-6, [2, 2, 1, 1, 1]),
        (370e-6, [2, 1, 1, 1, 1]),
        (300e-6, [1, 1, 1, 1, 1]),
        (224e-6, [1, 1]),
        (184e-6, []),
    ],
)
def test_a_request_waits_for_the_reserve_of_others(limit, in_work):
    backend = Slots(**dict.fromkeys('abcde', Answer('x', '', 10, 5)))
    stored: list[float] = []
    given = settings(max_cost=limit)
    tally = Tally(given, lambda: sum(stored))
    requests = (Request(i, m) for i, m in enumerate('abcde'))
    try:
        for done in ask(backend, given, tally, requests):
            stored += [] if done is None else [done.cost_usd]
    except CostLimitError:
        assert len(in_work) < 5
    assert backend.in_work == in_work
    assert tally.answered == len(in_work) and tally.reserved == 0


def test_what_others_have_stored_counts_for_the_limit():
    stored = [0.0]
    given = settings(max_cost=0.001)
    tally = Tally(given, lambda: sum(stored))
    backend = Slots(**dict.fromkeys('abcde', Answer('x', '', 10, 5)))
    requests = (Request(i, m) for i, m in enumerate('abcde'))
    found = []
    with pytest.raises(CostLimitError):
        for done in ask(backend, given, tally, requests):
            if done is not None:
                found.append(done)
                # with the cost that another process has stored
                stored += [done.cost_usd, 0.0009]
    # two others were sent before the sum was read again
    assert len(found) == 3
    assert tally.run_usd == pytest.approx(60e-6)
