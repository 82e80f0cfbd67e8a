# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Valid texts are unchanged or normalised; other values are refused."""

import pytest

from minigpt4.prompts.text_validation import check_text, json_type


@pytest.mark.parametrize(
    'text',
    ['a', ' a\tb\n', '猫 🙂 é', 'x\u200dy\u2028z', '</s>', 'it\x92s', '0'],
)
def test_valid_text_is_unchanged(text):
    assert check_text(text, 'it') == text


def test_byte_order_mark_and_line_ends_are_normalised():
    text = '\ufeffa\r\nb\rc\x0bd\x0ce'
    assert check_text(text, 'it') == 'a\nb\nc\nd\ne'


def test_text_above_the_length_limit_is_refused():
    assert check_text('abc', 'it', max_characters=3) == 'abc'
    with pytest.raises(ValueError, match='4 characters; expected at most 3'):
        check_text('abcd', 'it', max_characters=3)


@pytest.mark.parametrize(
    'value, message',
    [
        (None, 'the caption is null; expected a string.'),
        (5, 'the caption is a number'),
        (float('nan'), 'the caption is a number'),
        (True, 'the caption is a boolean'),
        (['a'], 'the caption is a list'),
        ({}, 'the caption is an object'),
        (b'a', 'the caption is a bytes'),
        ('cut \ud83d', r'half a character .*U\+D83D, character 5'),
        ('\udc80', r'half a character .*U\+DC80'),
        ('a\0', r'a control character \(U\+0000, character 2\)'),
        ('\x1b[31m', r'U\+001B'),
        ('a\x7f', r'U\+007F'),
        ('', 'the caption is empty'),
        (' \n\t\u3000', 'the caption is empty'),
        ('\ufeff', 'the caption is empty'),
        (' \u200b\u200d ', 'the caption is empty'),
    ],
)
def test_other_values_are_refused(value, message):
    with pytest.raises(ValueError, match=message) as error:
        check_text(value, 'the caption')
    assert str(error.value).isprintable()


def test_empty_text_is_accepted_if_allowed():
    assert check_text('', 'the question', allow_empty=True) == ''


def test_json_types_are_named():
    assert json_type(1.5) == 'a number' and json_type(False) == 'a boolean'
