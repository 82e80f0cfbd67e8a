# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""One id in different files: as a number, a float and a text."""

import math

import pytest

from minigpt4.utils.ids import checked_id, id_key, id_key_or_none


def test_numbers_and_their_texts_are_one_id():
    ways = (458752000, '458752000', 458752000.0)
    assert {id_key(way) for way in ways} == {'458752000'}
    assert id_key(0) == id_key(0.0) == id_key(-0.0) == '0'
    assert checked_id(7.0) == 7 and isinstance(checked_id(7.0), int)


def test_other_texts_are_compared_as_they_are():
    texts = ('139', '0139', '139.0', ' 139', '22jbM6', '22jbm6', '١٣٩')
    assert len({id_key(text) for text in texts}) == len(texts)
    assert checked_id('139') == '139'


@pytest.mark.parametrize(
    ('value', 'reason'),
    [
        (True, 'is true; expected a text or a whole number'),
        (None, 'is null;'),
        (1.5, 'is 1.5;'),
        (2.0**53 + 2, 'is 9007199254740994.0;'),
        (math.inf, 'is Infinity;'),
        (math.nan, 'is NaN;'),
        ([1], r'is \[1\];'),
        ({'id': 1}, 'is {"id": 1};'),
        ('', 'is empty;'),
        (' ', 'is empty;'),
    ],
)
def test_other_values_are_no_ids(value, reason):
    with pytest.raises(ValueError, match=reason):
        id_key(value)
    assert id_key_or_none(value) is None
