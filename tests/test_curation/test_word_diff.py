# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The words in which two texts differ."""

import pytest

from minigpt4.curation.word_diff import MAX_WORDS, word_diff


def test_words_are_compared():
    assert word_diff('A red car.', 'A blue car, parked.') == [
        ('equal', 'A '),
        ('delete', 'red'),
        ('insert', 'blue'),
        ('equal', ' car'),
        ('insert', ', parked'),
        ('equal', '.'),
    ]


@pytest.mark.parametrize(
    'before, after',
    [
        ('', 'new'),
        ('old', ''),
        ('', ''),
        ('same text', 'same text'),
        ('سيارة حمراء', 'سيارة زرقاء'),
        ('a_b  c\n', 'a_c c'),
        ('a ' * MAX_WORDS, 'a ' * MAX_WORDS + 'b'),
        ('x ' + 'a ' * MAX_WORDS + 'y', 'x ' + 'b ' * MAX_WORDS + 'y'),
    ],
)
def test_both_texts_can_be_restored(before, after):
    parts = word_diff(before, after)
    old = ''.join(text for kind, text in parts if kind != 'insert')
    new = ''.join(text for kind, text in parts if kind != 'delete')
    assert (old, new) == (before, after)


def test_long_texts_share_their_ends():
    parts = word_diff(
        'x ' + 'a ' * MAX_WORDS + 'y', 'x ' + 'b ' * MAX_WORDS + 'y'
    )
    assert [kind for kind, _ in parts] == [
        'equal',
        'delete',
        'insert',
        'equal',
    ]
