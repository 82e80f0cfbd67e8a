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


def settings(**fields):
    fields = dict(price_prompt=1, price_completion=2, max_tokens=60) | fields
    return EndpointSettings(backend='openai', model='m', **fields)


def asked(given, *messages, known=None):
    tally = Tally(given)
    requests = (Request(i, m, known=known) for i, m in enumerate(messages))
    return tally, ask(Backend(), given, tally, requests)


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
