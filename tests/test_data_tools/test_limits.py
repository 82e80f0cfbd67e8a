# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import pytest

from minigpt4.data_tools.limits import (
    KINDS,
    Limit,
    count_problems,
    parse_limit,
)
from minigpt4.data_tools.scan import Scan


def test_parse():
    assert parse_limit('3') == Limit(3)
    assert parse_limit('0.5%') == Limit(0.5, True)


@pytest.mark.parametrize('text', ['', '-1', 'x', '1.5', '101%', 'nan%', '%'])
def test_no_limit(text):
    with pytest.raises(ValueError, match='expected a whole number'):
        parse_limit(text)


@pytest.mark.parametrize(
    ('limits', 'exceeded'),
    [
        ({}, True),
        (dict(invalid=Limit(1)), True),
        (dict(invalid=Limit(2)), False),
        (dict(invalid=Limit(1, True)), True),
        (dict(invalid=Limit(20, True)), False),
    ],
)
def test_limits_of_numbers_and_shares(limits, exceeded):
    scan = Scan()
    scan.num_records = 10
    numbers = dict(invalid=2)
    counts = {c.kind: c for c in count_problems(scan, numbers, limits)}
    assert set(counts) == set(KINDS)
    assert counts['invalid'].number == 2
    assert counts['invalid'].share == 0.2
    assert counts['invalid'].exceeded is exceeded
    assert not counts['unreadable'].exceeded
