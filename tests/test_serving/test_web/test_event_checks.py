# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The checks of the page's event values."""

import math

import pytest

from minigpt4.serving.web.event_checks import (
    EventCheck,
    check_choice,
    check_message,
    check_number,
)

FILE = dict(path='a.png', size=3, meta={'_type': 'gradio.FileData'})


def test_number_is_checked():
    check = check_number('Beams', 1, 10)
    for value in (1, 2.5, 10):
        check(value)
    for value in (0, 11, True, '2', None, [], math.nan, math.inf, 10**40):
        with pytest.raises(ValueError, match='Beams .* from 1 to 10'):
            check(value)


def test_optional_number_is_checked():
    check = check_number('Seed', -math.inf, math.inf, optional=True)
    for value in (None, -5, 2**53):
        check(value)
    for value in (2**54, math.inf, math.nan, 'x'):
        with pytest.raises(ValueError, match='Seed is out of range'):
            check(value)


def test_choice_is_checked():
    check = check_choice(['Greedy', 'Sampling'])
    check('Greedy')
    for value in ('greedy', None, [], {}, 1):
        with pytest.raises(ValueError, match='Greedy, Sampling'):
            check(value)


def test_message_is_checked():
    check_message(dict(text='', files=[]))
    check_message(dict(text='a', files=[FILE, dict(FILE, url=None, x=1)]))
    for value in (None, 'a', {}, dict(text='a'), dict(text=1, files=[])):
        with pytest.raises(ValueError, match='text with a list of files'):
            check_message(value)
    for file in ('a', {}, dict(FILE, meta=None), dict(FILE, size='3')):
        with pytest.raises(ValueError, match='file .* is malformed'):
            check_message(dict(text='a', files=[file]))
    with pytest.raises(ValueError, match='half a character'):
        check_message(dict(text='\ud800', files=[]))


def test_number_of_inputs_is_checked():
    check = EventCheck((check_choice(['a']),))
    check(['a'], None)
    for data in ([], ['a', 'a'], None, 'a', dict(a='a')):
        with pytest.raises(ValueError, match='list of 1 values'):
            check(data, None)


def test_selection_is_checked():
    check = EventCheck(num_choices=2)
    check([], dict(index=1, value='x'))
    for details in (None, [], dict(index=2, value='x'), dict(index=1)):
        with pytest.raises(ValueError, match='select an example'):
            check([], details)
