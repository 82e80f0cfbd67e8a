# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Tallies of costs."""

import pytest

from minigpt4.endpoints.cost import Tally, cost_usd, format_usd
from minigpt4.endpoints.settings import EndpointSettings


def settings(**fields):
    return EndpointSettings(
        **{
            'backend': 'openai',
            'model': 'm',
            'price_prompt': 2.0,
            'price_completion': 8.0,
            **fields,
        }
    )


def test_costs_need_both_prices():
    assert cost_usd(settings(), 1_000_000, 500_000) == pytest.approx(6.0)
    assert cost_usd(settings(price_prompt=None), 1, 1) is None


def test_the_tally_reserves_what_is_in_work():
    limited = settings(price_prompt=0, max_tokens=100, max_cost=0.002)
    tally = Tally(limited, lambda: 0.0004)
    most = tally.most('any')
    assert most == pytest.approx(0.0008)
    assert tally.reserve(most) and tally.reserve(most)
    assert not tally.reserve(most) and tally.in_work == 2
    assert tally.settle(most, 10, 50) == pytest.approx(0.0004)
    assert not tally.reserve(most)
    tally.settle(most, 10, 25)
    assert tally.reserve(most)
    assert tally.total_usd == pytest.approx(0.001)
    assert tally.run_usd == pytest.approx(0.0006)
    assert str(tally) == (
        'answers: 2 answers, 20 prompt tokens, 75 tokens of answers, '
        '$0.000600 (with earlier runs $0.001000)'
    )


def test_failed_requests_are_no_answers():
    tally = Tally(settings(price_prompt=1.0, price_completion=1.0))
    for _ in range(12):
        tally.reserve(0.1)
        tally.settle(0.1, 10, 0, failed=True)
    assert str(tally).startswith('answers: 0 answers, 12 failed, 120 prompt ')


@pytest.mark.parametrize(
    ('amount', 'text'),
    [
        (0.0, '$0.000000'),
        (1e-7, '$0.00000010'),
        (2.5e-5, '$0.000025'),
        (0.5, '$0.500000'),
        (1234.5, '$1,234.50'),
    ],
)
def test_a_small_amount_is_not_shown_as_nothing(amount, text):
    assert format_usd(amount) == text


def test_the_reserve_is_an_upper_bound_for_any_text():
    tally = Tally(settings(price_prompt=1.0, price_completion=0.0))
    for text in ('a', '狗' * 100, '🐕', '\ud800'):
        assert tally.most(text) * 1e6 > len(text.encode(errors='replace'))
