# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Yes or no of a judge, and which of its answers count."""

import pytest

from minigpt4.evaluation.judge import (
    JudgeQuestion,
    JudgeSettings,
    estimate_judgements,
    parse_yes_no,
    unanswered,
    usable,
)


@pytest.mark.parametrize(
    ('answer', 'first', 'exact'),
    [
        ('yes', 'yes', 'yes'),
        (' No. ', 'no', 'no'),
        ('**Yes**', 'yes', 'yes'),
        ('YES, all of them', 'yes', 'unparsed'),
        ('"no"', 'no', 'no'),
        ('1. No', 'no', 'unparsed'),
        ('None', 'unparsed', 'unparsed'),
        ('The answer is yes', 'unparsed', 'unparsed'),
        ('', 'unparsed', 'unparsed'),
        ('...', 'unparsed', 'unparsed'),
    ],
)
def test_answers_are_parsed(answer, first, exact):
    assert parse_yes_no(answer) == first
    assert parse_yes_no(answer, 'exact') == exact


def test_an_unknown_parser_is_refused():
    with pytest.raises(ValueError, match='expected one of first-word, exact'):
        parse_yes_no('yes', 'last-word')


def test_the_last_usable_answer_counts():
    rows = [
        dict(key='b', answer='', problem='cut'),
        dict(key='b', answer='yes'),
        dict(key='a', answer='no'),
        dict(key='c', answer='', problem='cut'),
        dict(key='c', answer='', problem='empty'),
        dict(key='b', answer='no'),
        dict(key='a', answer='', problem='cut'),
    ]
    assert usable(rows) == [rows[2], rows[5]]
    assert unanswered(rows) == [rows[4]]


def test_what_judgements_will_cost():
    settings = JudgeSettings(
        backend='openai', model='m', price_prompt=1, price_completion=2
    )
    questions = [JudgeQuestion(str(i), 'm' * 400, {}) for i in range(1000)]
    found = estimate_judgements(settings, questions)
    # 100 tokens and two of the answer
    assert found[:3] == (1000, 100_000, 2000)
    assert found.cost_usd == pytest.approx(0.104)
    local = JudgeSettings(
        backend='model', model='m', price_prompt=1, price_completion=2
    )
    assert estimate_judgements(local, questions).cost_usd is None
    recorded = JudgeSettings(backend='recorded', model='m', recorded='x')
    assert estimate_judgements(recorded, questions).requests == 0
